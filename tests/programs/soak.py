"""Mixed load through a pair of sidecars for minutes: nothing may fail that is not meant to, and memory stays flat.

    tests/programs/soak [MINUTES]      10 if not said

While it runs: wrk and h2load on kept connections, a new connection for each of many requests, gRPC streams, WebSockets,
opaque bulk with half-closes, readers that are too slow, callers who are denied, and policies that are replaced every
few seconds. Each second both sidecars are measured. The median of the second fifth of the time is compared with that of
the last fifth; the first fifth is for pools and allocators to fill."""

import hashlib
import pathlib
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections import Counter
from contextlib import ExitStack

import grpc

from mesh import ORDERS_ALONE, Authority, Service, Sidecar
from nginx import SMALL, nginx
from program import PATIENCE, find, text, until
from test_grpc import Ledger, name, serve_ledger
from test_websocket import Chat, open_socket

WRK, H2LOAD = find("wrk", "wrk"), find("h2load", "nghttp2-client")
BULK = hashlib.shake_128(b"bulk").digest(4 << 20)
# Of what was there after the second fifth: an allocator's slack, and what a second of load may hold more than another.
MEMORY_FACTOR, MEMORY_SLACK = 1.10, 8 << 20
DESCRIPTORS_FACTOR, DESCRIPTORS_SLACK = 1.25, 32


class Soak:
    """The loads, what they count, and what they must not see."""

    def __init__(self, ends, folder):
        self.stopped, self.done, self.failures = threading.Event(), Counter(), []
        server = ends.enter_context(nginx(folder / "nginx"))
        chat = Chat()
        ends.callback(chat.server.shutdown)
        ports = [
            (server.http1, "http"),
            (serve_ledger(Ledger(), ends), "http2"),
            (chat.port, "http"),
            (Echo(ends).port, "tcp"),
        ]

        authority, quiet = Authority(), "accessLog: off"
        self.payments = Sidecar(ends, folder / "payments", "payments", authority, ORDERS_ALONE, ports, more=quiet)
        services = [
            Service(f"payments-{port}", "payments", inbound, protocol)
            for inbound, (port, protocol) in zip(self.payments.inbound, ports, strict=True)
        ]
        self.orders = Sidecar(ends, folder / "orders", "orders", authority, ORDERS_ALONE, outbound=services, more=quiet)
        stranger = Sidecar(ends, folder / "other", "stranger", authority, ORDERS_ALONE, outbound=services, more=quiet)
        self.http, self.grpc, self.websocket, self.opaque = self.orders.outbound
        self.denied_http, _, _, self.denied_opaque = stranger.outbound

    def loads(self):
        return [
            self.wrk,
            self.h2load,
            self.new_connections,
            self.grpc_streams,
            self.websockets,
            self.opaque_bulk,
            *[self.slow_reader] * 4,
            self.denied,
            self.policies,
        ]

    def begin(self):
        threads = [threading.Thread(target=self.repeat, args=(load,), daemon=True) for load in self.loads()]
        for thread in threads:
            thread.start()
        return threads

    def repeat(self, load):
        while not self.stopped.is_set():
            try:
                load()
            except Exception:
                # Whatever it is, it was not meant to happen.
                self.failures.append(f"{load.__name__}: {traceback.format_exc(limit=-2)}")
                self.stopped.wait(1)

    def wrk(self):
        printed = text(WRK, "-t1", "-c8", "-d5s", "--timeout", "20s", f"http://127.0.0.1:{self.http}/small.txt")
        assert "Socket errors" not in printed and "Non-2xx" not in printed, printed
        self.done["wrk: requests"] += int(re.search(r"(\d+) requests in", printed).group(1))

    def h2load(self):
        url = f"http://127.0.0.1:{self.http}/small.txt"
        printed = text(H2LOAD, "-n", 1000, "-c", 4, "-m", 10, url, patience=120)
        assert "1000 succeeded, 0 failed, 0 errored, 0 timeout" in printed, printed
        assert "1000 2xx" in printed, printed
        self.done["h2load: requests"] += 1000

    def new_connections(self):
        assert answer(self.http, "/small.txt") == (200, SMALL)
        self.done["a connection for each request"] += 1
        self.stopped.wait(0.01)

    def grpc_streams(self):
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc}") as channel:
            sent = [bytes([number]) * 1024 for number in range(200)]
            got = list(channel.stream_stream(name("Chat"))(iter(sent), timeout=60))
            assert got == [b"re: " + message for message in sent]
            assert channel.unary_unary(name("Echo"))(b"unary", timeout=60) == b"unary"
        self.done["gRPC: messages"] += len(sent)

    def websockets(self):
        with open_socket(self.websocket) as connection:
            for number in range(100):
                connection.send(f"message {number}" * 50)
                assert connection.recv(timeout=60) == f"message {number}" * 50
        self.done["WebSocket: messages"] += 100

    def opaque_bulk(self):
        with socket.create_connection(("127.0.0.1", self.opaque), timeout=60) as connection:
            sending = threading.Thread(target=send_and_half_close, args=(connection, BULK))
            sending.start()
            back = b"".join(iter(lambda: connection.recv(1 << 18), b""))
            sending.join()
        assert back == BULK, f"{len(back)} bytes came back"
        self.done["opaque: MiB, both ways"] += 2 * len(BULK) >> 20

    def slow_reader(self):
        with socket.create_connection(("127.0.0.1", self.http), timeout=60) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            connection.sendall(b"GET /large.bin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            for _ in range(1000):
                if self.stopped.wait(0.02):
                    return
                assert connection.recv(1 << 12), "the answer has ended too early"
        self.done["slow readers: KiB"] += 4000

    def denied(self):
        status, body = answer(self.denied_http, "/small.txt")
        assert status == 403 and body.startswith(b"denied "), (status, body)
        try:
            with socket.create_connection(("127.0.0.1", self.denied_opaque), timeout=60) as connection:
                assert connection.recv(1) == b""
        except ConnectionResetError:
            # A busy caller may learn of it as early as it learns that it is connected.
            pass
        self.done["denied"] += 2
        self.stopped.wait(0.05)

    def policies(self):
        """Another set that says the same: what is open stays open."""
        self.done["policies replaced"] += 1
        times = self.done["policies replaced"] + 1
        self.payments.put_in_force(ORDERS_ALONE.replace("name: orders", f"name: orders-{times}"), times)
        self.stopped.wait(3)


class Echo:
    """Sends back what it gets, up to the end of it."""

    def __init__(self, ends):
        self.listener = ends.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.echo, args=(connection,), daemon=True).start()

    def echo(self, connection):
        with connection:
            while part := connection.recv(1 << 16):
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)


def send_and_half_close(connection, content):
    connection.sendall(content)
    connection.shutdown(socket.SHUT_WR)


def answer(port, path):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        head, body = b"".join(iter(lambda: connection.recv(1 << 16), b"")).split(b"\r\n\r\n", 1)
    return int(head.split()[1]), body


def measure(sidecar):
    """Resident bytes, descriptors, threads, and what the sidecar itself says is open."""
    process = pathlib.Path(f"/proc/{sidecar.process.pid}")
    resident = int(re.search(r"VmRSS:\s+(\d+) kB", (process / "status").read_text()).group(1)) << 10
    with urllib.request.urlopen(f"http://127.0.0.1:{sidecar.admin}/metrics", timeout=PATIENCE) as page:
        metrics = page.read().decode()
    active = sum(
        int(value) for value in re.findall(r"^sidegate_connections_active\{.*\} (\d+)$", metrics, re.MULTILINE)
    )
    return {
        "resident": resident,
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
        "connections": active,
    }


def fifth(samples, number):
    """The medians of one of five equal parts of the time."""
    part = samples[len(samples) * (number - 1) // 5 : len(samples) * number // 5]
    return {field: statistics.median(sample[field] for sample in part) for field in part[0]}


def report(account, samples):
    for number in range(1, 6):
        median = fifth(samples, number)
        resident = f"{median['resident'] / (1 << 20):.1f} MiB resident"
        print(
            f"{account}, fifth {number}: {resident}, {median['descriptors']:.0f} "
            f"descriptors, {median['threads']:.0f} threads, {median['connections']:.0f} connections"
        )


def judge(soak, samples):
    """The sentences that must hold, each with whether it does."""
    verdicts = [("nothing failed that is not meant to", not soak.failures)]
    verdicts += [(f"{load} happened", soak.done[load] > 0) for load in soak.done]
    for account, measured in samples.items():
        second, last = fifth(measured, 2), fifth(measured, 5)
        memory = last["resident"] <= second["resident"] * MEMORY_FACTOR + MEMORY_SLACK
        descriptors = last["descriptors"] <= second["descriptors"] * DESCRIPTORS_FACTOR + DESCRIPTORS_SLACK
        verdicts += [
            (f"the memory of {account} is flat", memory),
            (f"{account} keeps no descriptors", descriptors),
            (f"{account} has the threads that it began with", last["threads"] <= second["threads"]),
        ]
    return verdicts


def main(minutes):
    with ExitStack() as ends:
        folder = pathlib.Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="sidegate-soak-")))
        folder.chmod(0o755)
        soak = Soak(ends, folder)
        sidecars = {"orders": soak.orders, "payments": soak.payments}
        threads = soak.begin()
        samples = {account: [] for account in sidecars}
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            for account, sidecar in sidecars.items():
                samples[account].append(measure(sidecar))
            soak.stopped.wait(1)
        soak.stopped.set()
        for thread in threads:
            thread.join(120)
        for account, sidecar in sidecars.items():
            report(account, samples[account])
            # The pools of `orders` let go of what has been idle for half a minute.
            until(lambda sidecar=sidecar: measure(sidecar)["connections"] == 0, f"{account} is empty", patience=60)
        for load, count in sorted(soak.done.items()):
            print(f"{load}: {count}")
        for failure in soak.failures[:5]:
            print(failure)
        verdicts = judge(soak, samples)
    failed = [sentence for sentence, holds in verdicts if not holds]
    for sentence in failed:
        print(f"FAILED: {sentence}")
    print(f"{len(verdicts) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10))
