"""Where a sidecar can stand, with plain `docker run`: a forwarder of busybox stands in for it. How the fence of `sidegate compose`
does in each of these is in `test_full.py` and `test_fenced.py`."""

import pytest

from project import answers, docker, eventually, host_serves, knock

pytestmark = pytest.mark.full
SERVE = ["sh", "-c", "mkdir -p /srv; echo naked >/srv/x; exec httpd -f -p 8080 -h /srv"]
FORWARD = ["sh", "-c", "exec nc -ll -p 9000 -e nc 127.0.0.1 8080"]


@pytest.fixture
def network():
    docker("network", "create", "shared")
    yield "shared"
    for container in ("app", "sidecar"):
        docker("rm", "-f", container, check=False)
    docker("network", "rm", "shared")


@pytest.fixture
def outside(tmp_path, network):
    """Where the engine's host serves, as a container on the network sees it."""
    gateway = docker("network", "inspect", network, "-f", "{{(index .IPAM.Config 0).Gateway}}").strip()
    with host_serves(tmp_path, 8099, "outside"):
        yield f"http://{gateway}:8099/x"


def start(name, network, command):
    docker("run", "-d", "--name", name, "--network", network, "busybox:stable", *command)


def stranger(*targets):
    targets = [tuple(target) for target in targets]
    said = answers(docker("run", "--rm", "--network", "shared", "busybox:stable", *knock("/x", *targets)), targets)
    return ["naked" in said[target] for target in targets]


def reaches(url):
    """Whether the application gets out, past a sidecar that only takes what comes in."""
    return docker("exec", "app", "timeout", "5", "wget", "-qO-", url, check=False) == "outside"


def test_a_sidecar_that_joins_its_application_fails_open(network, outside):
    start("app", network, SERVE)
    start("sidecar", "container:app", FORWARD)
    eventually(lambda: stranger(("app", "8080"), ("app", "9000")) == [True, True])
    assert reaches(outside)
    docker("restart", "-t", "0", "sidecar")
    eventually(lambda: stranger(("app", "8080"), ("app", "9000")) == [True, True])
    docker("stop", "-t", "0", "sidecar")
    assert stranger(("app", "8080"), ("app", "9000")) == [True, False]
    docker("start", "sidecar")
    eventually(lambda: stranger(("app", "9000")) == [True])
    docker("restart", "-t", "0", "app")
    eventually(lambda: stranger(("app", "8080"), ("app", "9000")) == [True, False])
    assert "running" in docker("inspect", "-f", "{{.State.Status}}", "sidecar")


def test_an_application_that_joins_its_sidecar_loses_its_network(network, outside):
    start("sidecar", network, FORWARD)
    start("app", "container:sidecar", SERVE)
    eventually(lambda: stranger(("sidecar", "8080"), ("sidecar", "9000")) == [True, True])
    assert reaches(outside)
    docker("restart", "-t", "0", "app")
    eventually(lambda: stranger(("sidecar", "9000")) == [True])
    docker("restart", "-t", "0", "sidecar")
    eventually(lambda: stranger(("sidecar", "8080"), ("sidecar", "9000")) == [False, False])
    docker("restart", "-t", "0", "app")
    eventually(lambda: stranger(("sidecar", "9000")) == [True])
