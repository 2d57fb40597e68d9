"""The SPIFFE Workload API that a sidecar serves its application, asked with the `spiffe` package."""

import contextlib
import http.client
import itertools
import ssl
import sys

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import TrustDomain, WorkloadApiClient, X509Source

from http_app import http_app
from mesh import DOMAIN, ORDERS_ALONE, Authority, Sidecar, spiffe_id
from program import run, until

NOBODY = 65534

# Started as root and then somebody else, so that it can read this Python. The client imports as it is made, and connects later.
ASK_AS = """
import os, sys
from spiffe import WorkloadApiClient
with WorkloadApiClient(sys.argv[2], default_timeout=10) as client:
    os.setgroups([]), os.setgid(int(sys.argv[1])), os.setuid(int(sys.argv[1]))
    print(client.fetch_x509_svid().spiffe_id)
"""


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def app(ends):
    return ends.enter_context(http_app())


@pytest.fixture(scope="module")
def serving(ends, folder, authority, app):
    """`serving(users)` is a sidecar of `orders` that serves the Workload API."""
    numbers = itertools.count(1)

    def start(users=""):
        more = f"workloadApi: {{listen: run/api.sock{users}}}"
        place = folder / f"orders-{next(numbers)}"
        return Sidecar(ends, place, "orders", authority, ORDERS_ALONE, [(app.port, "http")], more=more)

    return start


@pytest.fixture(scope="module")
def payments(ends, folder, authority, app):
    return Sidecar(ends, folder / "payments", "payments", authority, ORDERS_ALONE, [(app.port, "http")])


def socket(sidecar):
    return f"unix://{sidecar.folder}/run/api.sock"


def asked_as(user, sidecar):
    return run(sys.executable, "-c", ASK_AS, user, socket(sidecar))


def test_an_application_calls_as_the_workload_with_the_svid_that_it_is_given(serving, payments, folder):
    with WorkloadApiClient(socket(serving()), default_timeout=10) as client:
        context = client.fetch_x509_context()
        svid, bundles = context.default_svid, client.fetch_x509_bundles()
    assert str(svid.spiffe_id) == spiffe_id("orders")
    roots = bundles.get_bundle_for_trust_domain(TrustDomain(DOMAIN)).x509_authorities
    svid.save(folder / "own.pem", folder / "own-key.pem", Encoding.PEM)

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False  # Its name is a SPIFFE ID.
    tls.load_verify_locations(cadata="".join(root.public_bytes(Encoding.PEM).decode() for root in roots))
    tls.load_cert_chain(folder / "own.pem", folder / "own-key.pem")
    with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", payments.inbound[0], context=tls, timeout=10)) as call:
        call.request("GET", "/")
        answer = call.getresponse()
        assert (answer.status, len(answer.read()) > 0) == (200, True)
    payments.accessed(src=spiffe_id("orders"), verdict="allowed")


def test_a_source_follows_a_renewal(serving, authority):
    sidecar = serving()
    with X509Source(socket_path=socket(sidecar), timeout_in_seconds=10) as source:
        def svid():
            return source.get_x509_context().default_svid

        first = svid().leaf.serial_number
        sidecar.renew(authority)
        until(lambda: svid().leaf.serial_number != first, "the renewed SVID")
        assert str(svid().spiffe_id) == spiffe_id("orders")


def test_without_a_list_of_users_only_the_sidecars_own_is_answered(serving):
    sidecar = serving()
    assert asked_as(0, sidecar).stdout.decode().strip() == spiffe_id("orders")
    stranger = asked_as(NOBODY, sidecar)
    assert stranger.returncode != 0 and stranger.stdout == b""


def test_with_a_list_its_users_are_answered_and_root_is_not(serving):
    sidecar = serving(f", users: [{NOBODY}]")
    nobody = asked_as(NOBODY, sidecar)
    assert nobody.stdout.decode().strip() == spiffe_id("orders"), nobody.stderr.decode()
    root = asked_as(0, sidecar)
    assert root.returncode != 0 and root.stdout == b""
    refused = sidecar.process.err.first(lambda line: "SG0333" in line and line)
    assert '"user":0' in refused
