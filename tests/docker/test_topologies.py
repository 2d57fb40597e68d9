"""Where a sidecar can stand, with plain `docker run`: a forwarder of busybox stands in for it. The last is the fence of
`sidegate compose`, as far as the network goes."""

import pytest

from project import answers, docker, eventually, knock

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


def start(name, network, command):
    docker("run", "-d", "--name", name, "--network", network, "busybox:stable", *command)


def stranger(*targets):
    targets = [tuple(target) for target in targets]
    said = answers(docker("run", "--rm", "--network", "shared", "busybox:stable", *knock("/x", *targets)), targets)
    return ["naked" in said[target] for target in targets]


def test_a_sidecar_that_joins_its_application_fails_open(network):
    start("app", network, SERVE)
    start("sidecar", "container:app", FORWARD)
    eventually(lambda: stranger(("app", "8080"), ("app", "9000")) == [True, True])
    docker("restart", "-t", "0", "app")
    eventually(lambda: stranger(("app", "8080"), ("app", "9000")) == [True, False])
    assert "running" in docker("inspect", "-f", "{{.State.Status}}", "sidecar")


def test_an_application_that_joins_its_sidecar_loses_its_network(network):
    start("sidecar", network, FORWARD)
    start("app", "container:sidecar", SERVE)
    eventually(lambda: stranger(("sidecar", "8080"), ("sidecar", "9000")) == [True, True])
    docker("restart", "-t", "0", "app")
    eventually(lambda: stranger(("sidecar", "9000")) == [True])
    docker("restart", "-t", "0", "sidecar")
    eventually(lambda: stranger(("sidecar", "8080"), ("sidecar", "9000")) == [False, False])
    docker("restart", "-t", "0", "app")
    eventually(lambda: stranger(("sidecar", "9000")) == [True])
