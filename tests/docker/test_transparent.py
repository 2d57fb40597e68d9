"""Applications that join their sidecar's network, behind rules of the kernel: what works, what is refused, what restarts do."""

import pytest

from project import Project, answers, docker, eventually, get, knock

pytestmark = pytest.mark.full

BUY = "http://127.0.0.1:8000/cgi-bin/buy"
REFUND = "http://127.0.0.1:8000/cgi-bin/refund"
CHARGED = "web: orders: payments: charged\n"
LABEL = "    labels: {sidegate.dev/mode: transparent}\n    image: busybox:stable\n"


@pytest.fixture(scope="module")
def clear(tmp_path_factory):
    """The sample: `web` and `orders` transparent, `payments` fenced."""
    project = Project(tmp_path_factory.mktemp("clear") / "clear", sample="sample")
    text = (project.folder / "compose.yaml").read_text().replace("name: shop", "name: clear")
    project.write("compose.yaml", text.replace("    image: busybox:stable\n", LABEL, 2))
    project.mesh()
    project.up()
    yield project
    project.down()


def bought():
    return get(BUY) == ("200", CHARGED)


def edges(project):
    return project.inside("sidegate-control-plane", "/sidegate", "get", "edges").splitlines()


def naked(project, *services):
    """What a stranger among the sidecars is told at the ports of these services' applications and sidecars."""
    hosts = [project.address(f"{service}-sidegate", "sidegate-mesh") for service in services]
    targets = [(host, port) for host in hosts for port in ("8080", "15101", "15106", "15120")]
    run = ["run", "--rm", "--network", "clear_sidegate-mesh", "busybox:stable", *knock("/cgi-bin/buy", *targets)]
    return answers(docker(*run), targets)


def test_a_transparent_application_calls_and_is_called_over_mutual_tls(clear):
    eventually(bought)
    # Sidecars tell the ledger every few seconds.
    for edge in (["clear/web", "clear/orders"], ["clear/orders", "clear/payments"]):
        eventually(lambda: any(line.split()[:2] == edge and "mutual" in line for line in edges(clear)))


def test_the_sidecar_keeps_no_privilege_for_its_rules(clear):
    for service in ("web", "orders"):
        pid = clear.inspect(f"{service}-sidegate")["State"]["Pid"]
        status = dict(line.split(":\t", 1) for line in open(f"/proc/{pid}/status").read().splitlines())
        assert status["Uid"].split() == ["15100"] * 4 and status["Gid"].split() == ["15100"] * 4
        assert status["Groups"].strip() == "" and status["NoNewPrivs"] == "1"
        for held in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(status[held], 16) == 0, (held, status[held])
        dropped = clear.inspect(service)["HostConfig"]["CapDrop"]
        assert {"NET_ADMIN", "NET_RAW"} <= {name.removeprefix("CAP_") for name in dropped}


def test_nobody_reaches_a_transparent_application_past_its_rules(clear):
    eventually(bought)
    said = naked(clear, "web", "orders")
    assert not any("HTTP/1" in text for text in said.values()), said


def test_a_transparent_application_reaches_its_upstreams_and_nothing_else(clear):
    payments = clear.address("payments-sidegate", "sidegate-mesh")
    control_plane = clear.address("sidegate-control-plane", "sidegate-mesh")
    gateway = payments.rsplit(".", 2)[0] + ".0.1"
    targets = [(payments, "8080"), (payments, "15106"), (control_plane, "15110"), (gateway, "8000"), ("192.0.2.1", "80"),
               ("payments", "8080"), ("127.0.0.1", "15101"), ("orders", "8080")]
    said = answers(clear.inside("web", *knock("/cgi-bin/order", *targets)), targets)
    assert "payments: charged" in said.pop(("orders", "8080"))
    assert not any("HTTP/1" in text for text in said.values()), said


def test_a_policy_decides_for_transparent_applications_too(clear):
    path = ".sidegate/policies/orders.yaml"
    text = (clear.folder / path).read_text()
    clear.write(path, text.replace("to: [{ports: [8080]}]", "to: [{paths: [/cgi-bin/order]}]"))
    eventually(lambda: "403 Forbidden" in get(REFUND)[1])
    assert bought()
    clear.write(path, text)
    eventually(lambda: "refunded" in get(REFUND)[1])


def test_an_application_that_restarts_joins_its_sidecar_again(clear):
    docker("restart", "-t", "0", clear.container("web"))
    eventually(bought)


def test_compose_restarts_an_application_with_its_sidecar(clear):
    clear.compose("restart", "-t", "1", "web-sidegate")
    eventually(bought)


def test_an_application_whose_sidecar_crashed_is_offline_and_never_naked(clear):
    before = clear.kill("web-sidegate")
    eventually(lambda: clear.inspect("web-sidegate")["State"]["Pid"] not in (0, before))
    clear.healthy("web-sidegate")
    assert "charged" not in get(BUY)[1]
    assert not any("HTTP/1" in text for text in naked(clear, "web").values())
    docker("restart", "-t", "0", clear.container("web"))
    eventually(bought)
    # The network is a new one, and so are its rules.
    assert not any("HTTP/1" in text for text in naked(clear, "web").values())
