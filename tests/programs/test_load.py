"""Programs that make load: wrk over HTTP/1.1, h2load over both versions, nghttp over HTTP/2. Each counts errors itself;
here they must all be zero."""

import re

import pytest

from http_app import http_app
from nginx import LARGE, nginx
from program import find, run, text

WRK = find("wrk", "wrk")
H2LOAD = find("h2load", "nghttp2-client")
NGHTTP = find("nghttp", "nghttp2-client")


@pytest.fixture(scope="module")
def server(ends, folder):
    return ends.enter_context(nginx(folder / "nginx"))


@pytest.fixture(scope="module")
def over_http1(server, behind_sidecars):
    return behind_sidecars(server.http1, "http")


@pytest.fixture(scope="module")
def over_http2(server, behind_sidecars):
    return behind_sidecars(server.http2, "http2")


@pytest.fixture(scope="module")
def stranger(over_http1):
    return f"http://127.0.0.1:{over_http1.stranger()}"


def wrk(url, *arguments):
    printed = text(WRK, "-t2", "-c32", "-d3s", "--timeout", "10s", *arguments, url)
    requests = int(re.search(r"(\d+) requests in", printed).group(1))
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    assert "Socket errors" not in printed, printed
    return requests, int(refused.group(1)) if refused else 0


def h2load(url, number, *arguments):
    printed = text(H2LOAD, "-n", number, "-t", 2, *arguments, url)
    counts = re.search(r"requests: (\d+) total.* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", printed)
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", printed)
    return [int(count) for count in counts.groups()], [int(count) for count in statuses.groups()]


def test_wrk_on_32_kept_alive_connections_sees_no_error(over_http1, server):
    before = server.requests()
    requests, refused = wrk(f"{over_http1.url}/small.txt")
    assert requests > 100 and refused == 0
    assert server.requests() - before >= requests


def test_wrk_with_a_new_connection_for_each_request_sees_no_error(over_http1):
    requests, refused = wrk(f"{over_http1.url}/small.txt", "-H", "Connection: close")
    assert requests > 100 and refused == 0


def test_wrk_as_a_caller_who_is_not_permitted_gets_nothing_but_refusals(stranger, server):
    before = server.requests()
    requests, refused = wrk(f"{stranger}/small.txt")
    assert requests == refused > 100
    assert server.requests() == before, "nothing reached the application"


@pytest.mark.parametrize("arguments", [["--h1", "-c", 16], ["-c", 4, "-m", 50]])
def test_h2load_sees_every_request_succeed(over_http1, arguments):
    counts, statuses = h2load(f"{over_http1.url}/small.txt", 5000, *arguments)
    assert counts == [5000, 5000, 0, 0, 0]
    assert statuses == [5000, 0, 0, 0]


def test_h2load_with_an_http2_application_sees_every_request_succeed(over_http2):
    counts, statuses = h2load(f"{over_http2.url}/small.txt", 5000, "-c", 4, "-m", 50)
    assert counts == [5000, 5000, 0, 0, 0]
    assert statuses == [5000, 0, 0, 0]


@pytest.mark.parametrize("path", ["small.txt", "charge"])
def test_an_application_that_ends_its_connections_every_fifty_requests_loses_none(server, behind_sidecars, folder, path):
    """Over HTTP/2 nginx does not read what was sent behind its GOAWAY; that is sent again, POSTs too."""
    body = folder / f"{path}-body"
    body.write_bytes(b"ten euros")
    arguments = ["-d", body] if path == "charge" else []
    for app, protocol, load in [
        (server.parting1, "http", ["--h1", "-c", 16]),
        (server.parting2, "http2", ["-c", 4, "-m", 25]),
    ]:
        pair = behind_sidecars(app, protocol)
        before = server.requests()
        counts, statuses = h2load(f"{pair.url}/{path}", 5000, *load, *arguments)
        assert counts == [5000, 5000, 0, 0, 0]
        assert statuses == [5000, 0, 0, 0]
        assert server.requests() - before == 5000, "none came twice"


def test_h2load_with_bodies_over_one_connection_sees_every_request_succeed(ends, folder, behind_sidecars):
    app = ends.enter_context(http_app())
    body = folder / "body"
    body.write_bytes(LARGE[: 256 << 10])
    pair = behind_sidecars(app.port, "http")
    counts, _ = h2load(f"{pair.url}/upload", 200, "-c", 1, "-t", 1, "-m", 20, "-d", body)
    assert counts == [200, 200, 0, 0, 0]
    assert {seen["length"] for seen in app.seen} == {256 << 10}


def test_h2load_as_a_caller_who_is_not_permitted_gets_nothing_but_403(stranger):
    counts, statuses = h2load(f"{stranger}/small.txt", 1000, "-c", 4, "-m", 20)
    assert counts == [1000, 0, 1000, 0, 0]
    assert statuses == [0, 0, 1000, 0]


@pytest.mark.parametrize("arguments", [[], ["-u"]])
def test_nghttp_reads_a_large_answer(over_http1, arguments):
    """With `-u` it offers the upgrade of HTTP/1.1 to h2c, which a server may ignore: it is not passed on."""
    done = run(NGHTTP, "-n", "-s", *arguments, f"{over_http1.url}/large.bin")
    if arguments:
        assert b"HTTP Upgrade failed" in done.stdout + done.stderr
    else:
        assert re.search(rb" 200 +20M /large.bin", done.stdout), done


def test_nghttp_gets_trailers(ends, behind_sidecars):
    app = ends.enter_context(http_app())
    assert "x-checksum: 42" in text(NGHTTP, "-v", f"{behind_sidecars(app.port, 'http').url}/trailers")


def test_nghttp_gets_an_answer_before_it_has_sent_the_body(ends, folder, behind_sidecars):
    app = ends.enter_context(http_app())
    (folder / "large").write_bytes(LARGE[: 10 << 20])
    printed = text(NGHTTP, "-v", "-d", folder / "large", f"{behind_sidecars(app.port, 'http').url}/early")
    assert ":status: 413" in printed and "too large" in printed
