"""What is asked of each pair, and what is read off it. Every work gives its figures by name; the first is what is compared."""

import contextlib
import json
import re
import subprocess
import threading
import time
from typing import Callable, NamedTuple

from processes import LOAD, run

GIGABYTE = 1 << 30
HELD = 1000
# Seconds until a connection counts as silent: Sidegate lets go of buffers after five.
SILENCE = 6


class Tools(NamedTuple):
    """What the works are done with."""

    program: object
    folder: object
    seconds: int


class Work(NamedTuple):
    """`kind` of the pair that it is asked of; `figures` of one round on a fresh pair that has been warmed. `only`: the one proxy
    that it can be asked of."""

    name: str
    title: str
    kind: str
    figures: Callable
    only: str | None = None

    def is_for(self, peer):
        return self.kind in peer.kinds and self.only in (None, peer.name)


def requests(command):
    """CPU of both halves per request, of load that never waits."""

    def figures(pair, tools):
        before = pair.cpu()
        count = command(pair.ports.outbound, tools)
        return {"cpu_us": (pair.cpu() - before) / count * 1e6, "per_second": count / tools.seconds}

    return figures


def _wrk(port, tools):
    said = run(
        LOAD,
        *("wrk", "-t1", "-c32", f"-d{tools.seconds}s", "-H", "Host: server", f"http://127.0.0.1:{port}/"),
        patience=tools.seconds + 30,
    )
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"not everything was answered:\n{said}")
    return int(re.search(r"(\d+) requests in", said)[1])


def _h2load(*more):
    def count(port, tools):
        arguments = [argument.format(folder=tools.folder) for argument in more]
        said = run(
            LOAD,
            *("h2load", "-c8", "-m32", "-t1", f"-D{tools.seconds}", "--warm-up-time=0"),
            *("-H", ":authority: server", *arguments, f"http://127.0.0.1:{port}/bench.Echo/Say"),
            patience=tools.seconds + 30,
        )
        good = int(re.search(r"status codes: (\d+) 2xx", said)[1])
        bad = re.search(r"(\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said)
        if good == 0 or any(int(count) for count in bad.groups()):
            raise RuntimeError(f"not everything was answered:\n{said}")
        return good

    return count


def _latency(port, tools):
    return _say(tools, "rate", "--to", f"127.0.0.1:{port}", "--host", "server", "--rate", 1000, "--seconds", tools.seconds)


def steady(pair, tools):
    """At 1,000 requests per second: CPU of both halves per request, and what they add to the median."""
    before = pair.cpu()
    said = _latency(pair.ports.outbound, tools)
    # Those of the second before it was timed cost too.
    cpu = (pair.cpu() - before) / (said["requests"] * (tools.seconds + 1) / tools.seconds)
    direct = _latency(pair.ports.app, tools)
    added = {name: said[name] - direct[name] for name in ("p50", "p99")}
    return {"cpu_us": cpu * 1e6, "p50_added_us": added["p50"], "p99_added_us": added["p99"]}


def reloaded(pair, tools):
    """What it adds to the latency at 1,000 requests per second that both halves' rules are replaced each second."""
    quiet = _latency(pair.ports.outbound, tools)
    with _replacing(tools.folder / "policies.yaml") as count:
        busy = _latency(pair.ports.outbound, tools)
    if count() < tools.seconds / 2:
        raise RuntimeError(f"the rules were replaced {count()} times in {tools.seconds} s")
    return {f"{name}_added_us": busy[name] - quiet[name] for name in ("p50", "p99")}


@contextlib.contextmanager
def _replacing(file):
    """Gives one policy another name each second, and how often so far."""
    written, ended, times = file.read_text(), threading.Event(), []

    def replace():
        while not ended.wait(1):
            new = file.with_suffix(".new")
            new.write_text(written.replace("{name: p0}", f"{{name: p0-{len(times)}}}"))
            new.rename(file)
            times.append(time.monotonic())

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        yield lambda: len(times)
    finally:
        ended.set()
        thread.join()


def connections(at_a_time):
    """CPU of both halves for a connection that is made, used for one answer, and ended."""

    def figures(pair, tools):
        before = pair.cpu()
        to = f"127.0.0.1:{pair.ports.outbound}"
        said = _say(tools, "connect", "--to", to, "--at-a-time", at_a_time, "--seconds", tools.seconds)
        return {
            "cpu_us": (pair.cpu() - before) / said["connections"] * 1e6,
            "per_second": said["connections"] / said["seconds"],
        }

    return figures


def bulk(streams):
    """CPU of both halves per gigabyte."""

    def figures(pair, tools):
        each = GIGABYTE * max(1, tools.seconds // 2) // streams
        before = pair.cpu()
        said = _say(tools, "bulk", "--to", f"127.0.0.1:{pair.ports.outbound}", "--streams", streams, "--bytes", each)
        gigabytes = said["bytes"] / 1e9
        return {"cpu_s": (pair.cpu() - before) / gigabytes, "gb_per_second": gigabytes / said["seconds"]}

    return figures


def held(*host):
    """Memory of both halves for each connection that has been used once and is silent, and of each half before it."""

    def figures(pair, tools):
        idle = pair.resident()
        holder = subprocess.Popen(
            [str(tools.program), "hold", "--to", f"127.0.0.1:{pair.ports.outbound}", "--connections", str(HELD), *host],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            if holder.stdout.readline() != b"ready\n":
                raise RuntimeError(f"{HELD} connections could not be held")
            time.sleep(SILENCE)
            return {"per_connection_kb": (pair.resident() - idle) / HELD / 1e3, "idle_mb": idle / len(pair.halves) / 1e6}
        finally:
            holder.stdin.close()
            holder.wait(20)

    return figures


def _say(tools, command, *arguments):
    return json.loads(run(LOAD, tools.program, command, *arguments, patience=600))


GRPC = ("-d", "{folder}/message", "-H", "content-type: application/grpc", "-H", "te: trailers")

WORKS = [
    Work("http1", "HTTP/1.1, 32 connections, saturated", "http1", requests(_wrk)),
    Work("http2", "HTTP/2, 8 × 32 streams, saturated", "http2", requests(_h2load())),
    Work("grpc", "gRPC unary, 8 × 32 streams, saturated", "grpc", requests(_h2load(*GRPC))),
    Work("steady", "HTTP/1.1 at 1,000 requests per second", "http1", steady),
    Work("reload", "HTTP/1.1 at 1,000 requests per second, 1,000 rules replaced each second", "http1", reloaded, "sidegate"),
    Work("handshakes", "new connections, opaque, one answer each, two at a time", "tcp", connections(2)),
    Work("connections", "new connections, opaque, one answer each, eight at a time", "tcp", connections(8)),
    Work("bulk1", "opaque bytes, one stream", "tcp", bulk(1)),
    Work("bulk8", "opaque bytes, eight streams", "tcp", bulk(8)),
    Work("held-http1", "1,000 silent HTTP/1.1 connections", "http1", held("--host", "server")),
    Work("held-tcp", "1,000 silent opaque connections", "tcp", held()),
]
# Memory is read of a pair that has done nothing before.
COLD = {"held-http1", "held-tcp"}
