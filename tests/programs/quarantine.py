"""An identity is put in quarantine while many sidecars are connected: a control plane, and sidecars of which each calls the
next one round the ring.

Its open connections must be cut, to it and from it, and new calls refused, within a second; nobody else may notice; lifting
must restore. Only the standard library: no sidecar waits for pip.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from rotation import Ring, opened


class Measured:
    """Seconds since the quarantine was asked for, by what has happened."""

    def __init__(self):
        self.begun, self.moments = time.monotonic(), {}

    def happened(self, what):
        self.moments[what] = time.monotonic() - self.begun

    def __str__(self):
        return ", ".join(f"{what} after {seconds:.2f} s" for what, seconds in sorted(self.moments.items(), key=lambda one: one[1]))


def until_it_ends(client, what, measured):
    """Waits for the end of a connection that carries nothing."""
    try:
        client.sock.recv(1)
    except OSError:
        pass
    measured.happened(what)


def quarantine(ring, *what):
    command = [ring.program, "quarantine", *what, "--mesh", ring.folder / "mesh.yaml"]
    subprocess.run(command, check=True, capture_output=True)


def run(ring, pause):
    ring.start()
    theirs, to_them = ring.processes[0].address("outbound"), ring.processes[-1].address("outbound")
    others = [threading.Thread(target=ring.load, args=(process, pause), daemon=True) for process in ring.processes[1:-1]]
    for other in others:
        other.start()
    held = {"cut from it": opened(theirs), "cut to it": opened(to_them)}
    added = Measured()
    ended = [threading.Thread(target=until_it_ends, args=(client, what, added)) for what, client in held.items()]
    for thread in ended:
        thread.start()
    quarantine(ring, "add", "ring/s0", "--reason", "measured")
    added.happened("written")
    for what, address in [("refused from it", theirs), ("refused to it", to_them)]:
        ring.wait(lambda address=address: ring.call(address) is not None, what, 30)
        added.happened(what)
    for thread in ended:
        thread.join(30)
    lifted = Measured()
    quarantine(ring, "lift", "ring/s0")
    for what, address in [("restored from it", theirs), ("restored to it", to_them)]:
        ring.wait(lambda address=address: ring.call(address) is None, what, 60)
        lifted.happened(what)
    ring.ended.set()
    for other in others:
        other.join()
    return added, lifted


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sidecars", type=int, default=200)
    parser.add_argument("--pause", type=float, default=5, help="seconds between two calls of a sidecar's application")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        ring = Ring(os.environ["SIDEGATE"], pathlib.Path(name), arguments.sidecars, leaf_life=3600)
        try:
            added, lifted = run(ring, arguments.pause)
        finally:
            ring.stop()
    print(f"{ring.count} sidecars; {added}; lifted: {lifted}")
    print(f"{ring.answered} calls of others answered, {len(ring.failures)} not")
    for moment, failure in ring.failures[:20]:
        print(f"  {moment} {failure}")
    sys.exit(1 if ring.failures or len(added.moments) < 5 or max(added.moments.values()) > 1 else 0)


if __name__ == "__main__":
    main()
