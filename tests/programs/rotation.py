"""The root is replaced under load: a control plane, many sidecars, each calling the next one round the ring.

Each call is a connection of its own through two sidecars, so each is a handshake. One call that is not answered
fails the run. Only the standard library: no sidecar waits for pip.
"""

import argparse
import hashlib
import http.client
import http.server
import json
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import threading
import time

DOMAIN = "ring.test"


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


class Process:
    """A child whose log is read as it is written."""

    def __init__(self, arguments):
        self.child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.lines, self.change = [], threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for text in self.child.stderr:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            # What is waited for comes at the start.
            with self.change:
                if len(self.lines) < 2_000:
                    self.lines.append(line)
                self.change.notify_all()

    def first(self, wanted, patience=120):
        with self.change:
            found = lambda: next((line for line in self.lines if wanted(line)), None)
            assert self.change.wait_for(found, patience), f"no such line came: {self.lines[-5:]}"
            return found()

    def address(self, listener):
        host, port = self.first(lambda line: line.get("listener") == listener)["address"].rsplit(":", 1)
        return host, int(port)


class Ring:
    def __init__(self, program, folder, sidecars, leaf_life):
        self.program, self.folder, self.count, self.leaf_life = program, folder, sidecars, leaf_life
        self.failures, self.answered, self.slowest = [], 0, 0.0
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.processes, self.control_plane = [], None

    def start(self):
        app = http.server.ThreadingHTTPServer(("127.0.0.1", 0), App)
        threading.Thread(target=app.serve_forever, daemon=True).start()
        (self.folder / "policies").mkdir()
        (self.folder / "policies/all.yaml").write_text(
            "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: ring, namespace: ring}\n"
            f"spec: {{action: Allow, rules: [{{name: all, from: [{{trustDomains: [{DOMAIN}]}}]}}]}}\n"
        )
        tokens = [secrets.token_hex(32) for _ in range(self.count)]
        self.addresses = ("127.0.0.1:0", "127.0.0.1:0")
        self.services = "".join(
            f"- {{namespace: ring, name: s{n}, joinTokens: ['sha256:{hashlib.sha256(token.encode()).hexdigest()}']}}\n"
            for n, token in enumerate(tokens)
        )
        self.start_control_plane()
        for number, token in enumerate(tokens):
            self.start_sidecar(number, token, app.server_port)
        for process in self.processes:
            process.address("outbound")
        self.wait(lambda: self.connected() == self.count, "every sidecar is connected")
        # Until everybody knows the endpoint of the next one, a call may find none.
        self.wait(self.reaches_all, "everybody reaches the next one")

    def start_control_plane(self):
        grpc, api = self.addresses
        (self.folder / "mesh.yaml").write_text(
            f"apiVersion: sidegate.dev/v1alpha1\nkind: Mesh\ntrustDomain: {DOMAIN}\npolicies: policies/\nstate: state/\n"
            f"listen: {{grpc: '{grpc}', api: '{api}'}}\ncertificates: {{leafLife: {self.leaf_life}s}}\n"
            f"services:\n{self.services}"
        )
        self.control_plane = Process([self.program, "control-plane", "--config", self.folder / "mesh.yaml"])
        self.addresses = tuple("%s:%d" % self.control_plane.address(name) for name in ("grpc", "api"))

    def start_sidecar(self, number, token, app):
        folder = self.folder / f"s{number}"
        folder.mkdir()
        fd = os.open(folder / "token", os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(token)
        following = (number + 1) % self.count
        (folder / "proxy.yaml").write_text(
            f"trustDomain: {DOMAIN}\nworkload: {{namespace: ring, serviceAccount: s{number}}}\nworkers: 1\n"
            f"controlPlane: {{address: '{self.addresses[0]}', trustBundle: ../state/root.pem, joinToken: token}}\n"
            f"inbound: [{{listen: '127.0.0.1:0', forward: '127.0.0.1:{app}', protocol: tcp}}]\n"
            f"outbound: [{{listen: '127.0.0.1:0', service: s{following}, protocol: tcp}}]\n"
        )
        self.processes.append(Process([self.program, "proxy", "--config", folder / "proxy.yaml"]))

    def status(self):
        host, port = self.addresses[1].rsplit(":", 1)
        client = http.client.HTTPConnection(host, int(port), timeout=10)
        client.request("GET", "/v1/status")
        return json.loads(client.getresponse().read())

    def connected(self):
        return self.status()["proxies"]["connected"]

    def reaches_all(self):
        return all(self.call(process.address("outbound")) is None for process in self.processes)

    def call(self, address):
        """Why it was not answered."""
        try:
            opened(address).close()
        except (OSError, http.client.HTTPException, AssertionError) as error:
            return repr(error)

    def load(self, process, pause):
        address = process.address("outbound")
        while not self.ended.is_set():
            begun = time.monotonic()
            failure = self.call(address)
            took = time.monotonic() - begun
            with self.lock:
                self.slowest = max(self.slowest, took)
                if failure is None:
                    self.answered += 1
                else:
                    self.failures.append((time.strftime("%H:%M:%S"), failure))
            self.ended.wait(pause)

    def rotate(self, *what):
        command = [self.program, "certs", "rotate", *what, "--mesh", self.folder / "mesh.yaml", "-o", "json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def wait(self, condition, what, patience=300):
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f"not in time: {what}"
            time.sleep(0.1)

    def stop(self):
        self.ended.set()
        for process in [*self.processes, self.control_plane]:
            if process:
                process.child.kill()
                process.child.wait()


def opened(address):
    """A connection on which a call was answered."""
    client = http.client.HTTPConnection(*address, timeout=30)
    try:
        client.request("GET", "/")
        answer = client.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
    except BaseException:
        client.close()
        raise
    return client


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sidecars", type=int, default=50)
    parser.add_argument("--leaf-life", type=int, default=60, help="seconds")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two calls of a sidecar's application")
    arguments = parser.parse_args()
    program = os.environ["SIDEGATE"]
    with tempfile.TemporaryDirectory() as name:
        ring = Ring(program, pathlib.Path(name), arguments.sidecars, arguments.leaf_life)
        try:
            report(run(ring, arguments.pause), ring)
        finally:
            ring.stop()
    sys.exit(1 if ring.failures else 0)


def run(ring, pause):
    """When each phase began, in seconds since the rotation did."""
    ring.start()
    callers = [threading.Thread(target=ring.load, args=(process, pause), daemon=True) for process in ring.processes]
    for caller in callers:
        caller.start()
    root, begun, phases = ring.status()["root"]["fingerprint"], time.monotonic(), {}
    ring.rotate("start", "--reason", "under load")
    fallen = False
    while True:
        phase = ring.status()["rotation"]["phase"]
        phases.setdefault(phase, time.monotonic() - begun)
        if phase == "steady":
            break
        if phase == "activate" and not fallen:
            fallen = True
            ring.control_plane.child.kill()
            ring.control_plane.child.wait()
            ring.start_control_plane()
        assert time.monotonic() - begun < 20 * ring.leaf_life, ring.rotate("status")
        time.sleep(0.2)
    assert ring.status()["root"]["fingerprint"] != root
    ring.ended.set()
    for caller in callers:
        caller.join()
    return phases


def report(phases, ring):
    spans = ", ".join(f"{phase} at {seconds:.1f} s" for phase, seconds in phases.items())
    print(f"{ring.count} sidecars, leaves of {ring.leaf_life} s, the control plane killed once: {spans}")
    print(f"{ring.answered} calls answered, {len(ring.failures)} not; the slowest took {ring.slowest * 1000:.0f} ms")
    for moment, failure in ring.failures[:20]:
        print(f"  {moment} {failure}")


if __name__ == "__main__":
    main()
