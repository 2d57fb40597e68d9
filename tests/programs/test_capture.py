"""One port for several services, as real programs find them: by the host (a fenced application), and as a forward
proxy."""

import json

import grpc
import pytest

from http_app import http_app
from mesh import ORDERS_ALONE, Among, Authority, Service, Sidecar, spiffe_id
from nginx import SMALL, nginx
from program import find, run, text
from test_grpc import Ledger, name, serve_ledger

CURL = find("curl", "curl")


class Callers:
    """The ports of one caller's sidecar."""

    def __init__(self, sidecar):
        self.fenced, self.proxy = sidecar.outbound


@pytest.fixture(scope="module")
def app(ends):
    return ends.enter_context(http_app())


@pytest.fixture(scope="module")
def server(ends, folder):
    return ends.enter_context(nginx(folder / "nginx"))


@pytest.fixture(scope="module")
def services(app, server, ends, folder):
    """`web` and `ledger` are HTTP, `secure` has TLS of its own; all behind one sidecar."""
    ports = {
        "web": (app.port, "http"),
        "ledger": (serve_ledger(Ledger(), ends), "http2"),
        "secure": (server.tls, "tcp"),
    }
    authority = Authority()
    payments = Sidecar(ends, folder / "payments", "payments", authority, ORDERS_ALONE, list(ports.values()))
    among = [
        Service(name, "payments", inbound, protocol)
        for (name, (_, protocol)), inbound in zip(ports.items(), payments.inbound, strict=True)
    ]
    return authority, [Among("services", among), Among("proxy", among)]


@pytest.fixture(scope="module")
def orders(services, ends, folder):
    authority, outbound = services
    return Callers(Sidecar(ends, folder / "orders", "orders", authority, ORDERS_ALONE, outbound=outbound))


@pytest.fixture(scope="module")
def stranger(services, ends, folder):
    authority, outbound = services
    return Callers(Sidecar(ends, folder / "stranger", "stranger", authority, ORDERS_ALONE, outbound=outbound))


def curl(*arguments):
    return text(CURL, "-sS", "--max-time", 20, *arguments)


def fenced(port, host):
    """As in a fence, where the name of the service is the sidecar's."""
    return "--connect-to", f"{host}:80:127.0.0.1:{port}", "--connect-to", f"{host}:443:127.0.0.1:{port}"


def as_seen(printed):
    seen = json.loads(printed)
    return seen["target"], dict(seen["headers"])["host"], dict(seen["headers"])["x-sidegate-peer"]


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_a_fenced_application_reaches_the_service_that_it_names(orders, version):
    printed = curl(version, *fenced(orders.fenced, "web"), "http://web/a")
    assert as_seen(printed) == ("/a", "web", spiffe_id("orders"))


def test_a_fenced_applications_own_tls_is_passed_on_by_its_server_name(orders, server):
    trust = ("--cacert", server.folder / "certificate.pem")
    assert curl(*trust, *fenced(orders.fenced, "secure"), "https://secure/small.txt").encode() == SMALL


def test_a_fenced_application_reaches_no_other_host(orders):
    assert curl("-o", "/dev/null", "-w", "%{http_code}", *fenced(orders.fenced, "other"), "http://other/a") != "200"


def test_a_proxy_is_asked_with_an_absolute_target(orders):
    printed = curl("-x", f"http://127.0.0.1:{orders.proxy}", "http://web/a")
    assert as_seen(printed) == ("/a", "web", spiffe_id("orders"))


def test_a_tunnel_of_a_proxy_carries_http_and_the_applications_own_tls(orders, server):
    proxy = ("-p", "-x", f"http://127.0.0.1:{orders.proxy}")
    assert as_seen(curl(*proxy, "http://web/a")) == ("/a", "web", spiffe_id("orders"))
    assert curl(*proxy, "--cacert", server.folder / "certificate.pem", "https://secure/small.txt").encode() == SMALL


def test_grpc_goes_through_a_tunnel_of_a_proxy(orders):
    option = [("grpc.http_proxy", f"http://127.0.0.1:{orders.proxy}")]
    with grpc.insecure_channel("dns:///ledger:50051", option) as channel:
        assert channel.unary_unary(name("Echo"))(b"through", timeout=20) == b"through"


def test_a_proxy_leads_to_no_service_that_it_does_not_list(orders):
    done = run(CURL, "-sS", "--max-time", 20, "-p", "-x", f"http://127.0.0.1:{orders.proxy}", "http://other/a")
    assert done.returncode == 56 and b"CONNECT" in done.stderr, done


def test_a_caller_who_is_not_permitted_is_refused_however_it_asks(stranger, app, server):
    before = len(app.seen), server.requests()
    code = ("-o", "/dev/null", "-w", "%{http_code}")
    assert curl(*code, *fenced(stranger.fenced, "web"), "http://web/a") == "403"
    assert curl(*code, "-x", f"http://127.0.0.1:{stranger.proxy}", "http://web/a") == "403"
    for way in [fenced(stranger.fenced, "secure"), ("-x", f"http://127.0.0.1:{stranger.proxy}")]:
        done = run(CURL, "-skS", "--max-time", 20, *way, "https://secure/small.txt")
        assert done.returncode in (35, 56), done
    assert (len(app.seen), server.requests()) == before, "nothing reached an application"
