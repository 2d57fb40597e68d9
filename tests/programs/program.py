"""Real programs as children: found or the test fails, waited for with a deadline, ended with the test."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

# Nothing here takes longer unless it is broken.
PATIENCE = 30


class Missing(Exception):
    """A program that is not installed is a failure, never a skip."""


def find(name, package, *folders):
    """The path of a program of a Debian package, wherever that keeps it."""
    path = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", *folders]))
    if path is None:
        raise Missing(f"{name} is not installed: {package}")
    return path


# They end with this process even if it is killed. Not by `preexec_fn`: what runs between the fork and the exec of a
# process with threads crashes now and then.
WITH_PARENT = [find("setpriv", "util-linux"), "--pdeathsig", "KILL", "--"]


def run(*command, patience=PATIENCE, **options):
    """Runs a command to its end; its exit code and output are the test's to judge."""
    return subprocess.run(
        [*WITH_PARENT, *(str(part) for part in command)],
        capture_output=True,
        timeout=patience,
        **options,
    )


def text(*command, **options):
    """What a command prints, which must succeed."""
    done = run(*command, **options)
    assert done.returncode == 0, (
        f"{command}: exit code {done.returncode}\n{_decode(done.stdout)}\n{_decode(done.stderr)}"
    )
    return _decode(done.stdout)


def free_port():
    """A port for a server that cannot say which one it was given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(holds, what, patience=PATIENCE):
    """Asks again until it holds; `what` is the sentence of the failure."""
    deadline = time.monotonic() + patience
    while True:
        value = holds()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(0.02)


class Lines:
    """The lines that a child prints, read as they come."""

    def __init__(self, stream):
        self._lines = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def _read(self, stream):
        with stream:
            for line in stream:
                with self._changed:
                    self._lines.append(_decode(line).rstrip("\n"))
                    self._changed.notify_all()

    def end(self):
        """Waits until the stream has ended, which it does with its writers."""
        self._reader.join(5)

    def all(self):
        with self._changed:
            return list(self._lines)

    def first(self, wanted, patience=PATIENCE):
        """The first line for which `wanted` returns something, and what it returned."""
        return self.nth(1, wanted, patience)

    def nth(self, number, wanted, patience=PATIENCE):
        deadline = time.monotonic() + patience
        with self._changed:
            while True:
                found = [value for value in map(wanted, self._lines) if value]
                if len(found) >= number:
                    return found[number - 1]
                left = deadline - time.monotonic()
                assert left > 0, "no such line came; there are:\n" + "\n".join(self._lines[-40:])
                self._changed.wait(left)


@contextmanager
def running(*command, stop=signal.SIGTERM, **options):
    """A server; with `stop`, and then with force, it ends with the block, and so does whatever it started."""
    child = subprocess.Popen(
        [*WITH_PARENT, *(str(part) for part in command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )
    child.out, child.err = Lines(child.stdout), Lines(child.stderr)
    try:
        yield child
    finally:
        child.send_signal(stop)
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait(5)
        child.out.end()
        child.err.end()


def accepts(port, child):
    """Waits until a server accepts connections on `port`."""

    def connected():
        assert child.poll() is None, "it has ended:\n" + "\n".join(child.out.all() + child.err.all())
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(connected, f"a server accepts connections on {port}")


def received_before_the_end(port, sends=b""):
    """All bytes that come back on a connection until it is closed; a reset is as good an end."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as raw:
        try:
            raw.sendall(sends)
            while part := raw.recv(65536):
                received += part
        except (ConnectionResetError, BrokenPipeError):
            pass
    return received


def _decode(output):
    return output if isinstance(output, str) else output.decode(errors="replace")
