"""Programs on a core of their own, and what the kernel says that they cost."""

import os
import pathlib
import signal
import socket
import subprocess
import time

# Load and application share one core, so that the proxies have the other to themselves.
LOAD, PROXIES = 0, 1
# Nothing here takes longer to begin or to end unless it is broken.
PATIENCE = 20
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A child on one core, with everything that it starts. It ends with this process even if that is killed."""

    def __init__(self, core, log, *command, **environment):
        self.log = log
        pinned = ["setpriv", "--pdeathsig", "KILL", "--", "taskset", "-c", str(core)]
        with open(log, "wb") as out:
            self._child = subprocess.Popen(
                [*pinned, *(str(part) for part in command)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def until_listening(self, *ports):
        for port in ports:
            self.until(lambda: _listens(port), f"nobody listens on port {port}")

    def until(self, holds, what):
        """Asks again until it holds; `what` is the sentence of the failure."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{what}:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def cpu(self):
        """Seconds in user and kernel mode so far."""
        return sum(_ticks(pid) for pid in self._pids()) / TICKS

    def resident(self):
        """Bytes in memory that no other process shares, or this one's share of them."""
        return sum(_pss(pid) for pid in self._pids())

    def end(self):
        # nginx's master ends its workers only if it is asked to.
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._child.pid, how)
                self._child.wait(3)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def _pids(self):
        found, todo = [], [self._child.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
                todo += [int(child) for child in (thread / "children").read_text().split()]
        return found


def run(core, *command, patience):
    """Runs a command to its end, which must be a good one, and gives what it prints."""
    done = subprocess.run(
        ["taskset", "-c", str(core), *(str(part) for part in command)],
        capture_output=True,
        text=True,
        timeout=patience,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _ticks(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _pss(pid):
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no memory is told of process {pid}")
