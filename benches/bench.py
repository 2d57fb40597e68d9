"""One run: certificates, the application, the proofs, rounds, and the table. `run` prepares what this needs."""

import argparse
import json
import os
import pathlib
import platform
import sys
import tempfile
import time

import certificates
import peers
import proofs
import report
import works
from processes import LOAD, Process, free_port


def main():
    asked = arguments()
    with tempfile.TemporaryDirectory(prefix="sidegate-benches-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        certificates.write(folder, ["client", "server", "stranger"])
        # Of gRPC: not compressed, 32 bytes.
        (folder / "message").write_bytes(b"\0\0\0\0\x20" + b"m" * 32)
        tools = works.Tools(asked.programs / "sidegate-bench", folder, asked.seconds)
        app = Application(tools, folder)
        try:
            prove_all(asked, folder, app)
            rounds = [one_round(number, asked, tools, folder, app) for number in range(asked.rounds)]
        finally:
            app.process.end()
    result = report.summary(rounds, asked.works)
    machine = {"processor": processor(), "cores": os.cpu_count(), "kernel": platform.release(), "day": time.strftime("%Y-%m-%d")}
    print(report.table(result, asked.works))
    if asked.json:
        said = {"machine": machine, "seconds": asked.seconds, "summary": result, "rounds": rounds}
        asked.json.write_text(json.dumps(said, indent=1) + "\n")


class Application:
    """One for all pairs: its port by the kind of traffic."""

    def __init__(self, tools, folder):
        http, tcp = free_port(), free_port()
        command = ["app", "--http", f"127.0.0.1:{http}", "--tcp", f"127.0.0.1:{tcp}"]
        self.process = Process(LOAD, folder / "app.log", tools.program, *command)
        self.process.until_listening(http, tcp)
        self.ports = {"http1": http, "http2": http, "grpc": http, "tcp": tcp}


def prove_all(asked, folder, app):
    kinds = {work.kind for work in asked.works}
    for peer in asked.peers:
        for kind in (kind for kind in peer.kinds if kind in kinds):
            with peer.pair(kind, folder, app.ports) as pair:
                proofs.prove(peer, kind, pair, folder)
        who = "refuses whom it should" if peer.judges else "asks for a certificate, and no more"
        say(f"{peer.name}: {who}")


def one_round(number, asked, tools, folder, app):
    """Everything once. Whoever is first in one round is last in the next."""
    measured = {}
    for work in asked.works:
        order = [peer for peer in asked.peers if work.is_for(peer)]
        turn = number % max(1, len(order))
        figures = {}
        for peer in order[turn:] + order[:turn]:
            with peer.pair(work.kind, folder, app.ports) as pair:
                if work.name not in works.COLD:
                    work.figures(pair, tools._replace(seconds=1))
                figures[peer.name] = work.figures(pair, tools)
            shown = ", ".join(f"{name} {value:.1f}" for name, value in figures[peer.name].items())
            say(f"round {number + 1} of {asked.rounds}, {work.name}, {peer.name}: {shown}")
        measured[work.name] = {peer.name: figures[peer.name] for peer in order}
    return measured


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="where the programs were built")
    parser.add_argument("--venv", type=pathlib.Path, required=True, help="where Envoy is")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--only", help="names of proxies, with commas")
    parser.add_argument("--work", help="names of works, with commas")
    parser.add_argument("--json", type=pathlib.Path, help="also write every figure of every round to this file")
    asked = parser.parse_args()
    asked.peers = chosen(parser, peers.all_of_them(asked.programs, asked.venv), asked.only)
    asked.works = chosen(parser, works.WORKS, asked.work)
    return asked


def chosen(parser, known, names):
    if names is None:
        return known
    by_name = {each.name: each for each in known}
    unknown = [name for name in names.split(",") if name not in by_name]
    if unknown:
        parser.error(f"{', '.join(unknown)}: not among {', '.join(by_name)}")
    return [each for each in known if each.name in names.split(",")]


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def say(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
