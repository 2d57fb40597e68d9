"""A Compose project in a folder of its own, with `sidegate compose` and a real engine."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SIDEGATE = os.environ["SIDEGATE"]
FILES = ["-f", "compose.yaml", "-f", "compose.sidegate.yaml"]


def run(*command, within=240, cwd=None, check=True):
    """Standard output of a command that must succeed; with `check=False` whatever it said, errors last."""
    done = subprocess.run(command, cwd=cwd, timeout=within, text=True, capture_output=True)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout if check else done.stdout + done.stderr


def docker(*arguments, **more):
    return run("docker", *arguments, **more)


def on_host(*command, **more):
    """In the network that the engine calls its host."""
    return run("nsenter", f"--net=/run/netns/{os.environ['SIDEGATE_NETNS']}", *command, **more)


def get(url, **more):
    """Status and body, as a client outside of every container gets them; 000 where nobody answers."""
    answer = on_host("curl", "-s", "-m", "10", "-w", "\n%{http_code}", url, check=False, **more)
    body, _, status = answer.rpartition("\n")
    return (status[-3:], body)


@contextlib.contextmanager
def host_serves(folder, port, text):
    """A web server of the engine's host, which is outside of every container, with `text` as /x."""
    (folder / "x").write_text(text)
    command = [f"--net=/run/netns/{os.environ['SIDEGATE_NETNS']}", sys.executable, "-m", "http.server", str(port)]
    server = subprocess.Popen(["nsenter", *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: get(f"http://127.0.0.1:{port}/x") == ("200", text))
        yield
    finally:
        server.terminate()
        server.wait()


def knock(path, *targets):
    """A command that asks each address and port at the same time, and prints what each says under its name. The request's
    side stays open while the answer is awaited; busybox's wget crashes where nobody answers."""
    request = f"GET {path} HTTP/1.0\\r\\nHost: web\\r\\n\\r\\n"
    ask = "".join(
        f"(printf '{request}'; sleep 3) | nc -w 3 {address} {port} >/tmp/{address}-{port} 2>&1 & "
        for address, port in targets
    )
    tell = "".join(f"echo; echo '== {address} {port}'; cat /tmp/{address}-{port}; " for address, port in targets)
    return ["sh", "-c", f"mkdir -p /tmp; {ask} wait; {tell}"]


def answers(said, targets):
    """What each target of `knock` said."""
    parts = said.split("\n== ")[1:]
    assert len(parts) == len(targets), said
    return {tuple(part.split("\n", 1)[0].split(" ")): part.split("\n", 1)[1] for part in parts}


def eventually(attempt, within=90.0):
    """The first true answer, and the seconds it took."""
    begun = time.monotonic()
    while True:
        answer = attempt()
        took = time.monotonic() - begun
        if answer:
            return answer, took
        if took > within:
            raise AssertionError(f"not within {within} s")
        time.sleep(0.02)


class Project:
    """A folder with a compose.yaml."""

    def __init__(self, folder, sample=None, text=None):
        self.folder = pathlib.Path(folder)
        if sample:
            shutil.copytree(REPOSITORY / "deploy" / sample, self.folder, dirs_exist_ok=True)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.write("compose.yaml", text)
        self.files = FILES

    def write(self, name, text):
        """As a careful editor does."""
        draft = self.folder / f".{os.path.basename(name)}.draft"
        draft.write_text(text)
        draft.rename(self.folder / name)

    def sidegate(self, *arguments, **more):
        return run(SIDEGATE, *arguments, cwd=self.folder, **more)

    def mesh(self, *inject):
        self.sidegate("compose", "init")
        self.sidegate("compose", "inject", *inject)
        if "--merge" in inject:
            self.files = ["-f", "compose.sidegate.yaml"]

    def compose(self, *arguments, within=300, **more):
        return docker("compose", *self.files, *arguments, cwd=self.folder, within=within, **more)

    def up(self, *arguments, within=300):
        return self.compose("up", "-d", *arguments, within=within)

    def down(self):
        self.compose("down", "-v", "-t", "1", check=False)

    def container(self, service):
        return self.compose("ps", "-aq", service).strip()

    def inspect(self, service):
        return json.loads(docker("inspect", self.container(service)))[0]

    def address(self, service, network):
        """Of a service's container on a network of the project."""
        for name, settings in self.inspect(service)["NetworkSettings"]["Networks"].items():
            if name.endswith(f"_{network}"):
                return settings["IPAddress"]
        raise AssertionError(f"{service} is not on {network}")

    def inside(self, service, *command, **more):
        """Output of a command in a container, whether it succeeds or not."""
        return self.compose("exec", "-T", service, *command, check=False, **more)

    def kill(self, service):
        """The process, behind the engine's back: a crash."""
        pid = eventually(lambda: self.inspect(service)["State"]["Pid"])[0]
        os.kill(pid, 9)
        return pid

    def healthy(self, service, within=120.0):
        health = lambda: self.inspect(service)["State"].get("Health", {}).get("Status") == "healthy"
        return eventually(health, within)
