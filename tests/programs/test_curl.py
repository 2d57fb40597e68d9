"""curl against an HTTP/1.1 application: versions, bodies, framing, connections, refusals."""

import hashlib
import json
import re

import pytest

from http_app import http_app
from mesh import spiffe_id
from program import find, received_before_the_end, run, running, text

CURL = find("curl", "curl")
VERSIONS = ["--http1.0", "--http1.1", "--http2-prior-knowledge"]
TEN_MEGABYTES = bytes(range(256)) * (10 * 4096)


@pytest.fixture(scope="module")
def app(ends):
    return ends.enter_context(http_app())


@pytest.fixture(scope="module")
def pair(app, behind_sidecars):
    return behind_sidecars(app.port, "http")


@pytest.fixture(scope="module")
def stranger(pair):
    return f"http://127.0.0.1:{pair.stranger()}"


def curl(*arguments, **options):
    return text(CURL, "-sS", "--max-time", 20, *arguments, **options)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_of_each_version_reaches_the_application_once(pair, app, version):
    before = len(app.seen)
    seen = json.loads(curl(version, f"{pair.url}/a/b?c=d%20e"))
    assert (seen["method"], seen["target"], seen["version"]) == ("GET", "/a/b?c=d%20e", "HTTP/1.1")
    headers = dict(seen["headers"])
    assert headers["x-sidegate-peer"] == spiffe_id("orders")
    assert headers["host"] == f"127.0.0.1:{pair.port}"
    assert len(app.seen) == before + 1


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upload_of_ten_megabytes_arrives_to_the_byte(pair, folder, version):
    (folder / "upload").write_bytes(TEN_MEGABYTES)
    seen = json.loads(curl(version, "-T", folder / "upload", f"{pair.url}/upload"))
    assert seen["length"] == len(TEN_MEGABYTES)
    assert seen["sha256"] == hashlib.sha256(TEN_MEGABYTES).hexdigest()


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_an_upload_of_unknown_length_arrives_to_the_byte(pair, version):
    seen = json.loads(curl(version, "-T", "-", f"{pair.url}/stream", input=TEN_MEGABYTES))
    assert seen["sha256"] == hashlib.sha256(TEN_MEGABYTES).hexdigest()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_each_method_and_its_body_arrive_as_sent(pair, method):
    seen = json.loads(curl("-X", method, "--data-binary", "a=1&b", f"{pair.url}/any"))
    assert (seen["method"], seen["length"]) == (method, 5)


def test_a_post_without_a_body_arrives_with_length_zero(pair):
    seen = json.loads(curl("-X", "POST", f"{pair.url}/any"))
    assert ["content-length", "0"] in seen["headers"]


def test_expect_is_answered_by_the_application(pair, app):
    done = run(
        CURL, "-sSv", "-H", "Expect: 100-continue", "--data-binary", "@-", f"{pair.url}/any", input=TEN_MEGABYTES
    )
    assert b"< HTTP/1.1 100 Continue" in done.stderr
    assert json.loads(done.stdout)["length"] == len(TEN_MEGABYTES)
    assert {"expect": True} in app.seen


def test_trailers_arrive_after_the_body(pair, folder):
    headers = folder / "headers"
    body = curl("-D", headers, "-H", "TE: trailers", "-H", "Connection: TE", f"{pair.url}/trailers")
    assert body == "first second"
    assert re.search(rb"\r\n\r\nx-checksum: 42\r\n", headers.read_bytes(), re.IGNORECASE), headers.read_text()


def test_trailers_arrive_over_http2_too(pair, folder):
    headers = folder / "headers"
    assert curl("--http2-prior-knowledge", "-D", headers, f"{pair.url}/trailers") == "first second"
    assert re.search(r"^x-checksum: 42", headers.read_text(), re.IGNORECASE | re.MULTILINE), headers.read_text()


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_a_head_request_gets_headers_and_no_body(pair, version):
    head = curl(version, "-I", f"{pair.url}/a")
    assert re.match(r"HTTP/[12](\.1)? 200", head)
    assert re.search(r"(?i)^content-length: [1-9]", head, re.MULTILINE)


def test_an_answer_without_a_body_stays_without(pair):
    head = curl("-i", f"{pair.url}/empty")
    assert head.startswith("HTTP/1.1 204 ")
    assert "transfer-encoding" not in head.lower() and "content-length" not in head.lower()


def test_one_connection_serves_many_requests(pair):
    urls = [f"{pair.url}/{number}" for number in range(5)]
    sinks = [part for _ in urls for part in ("-o", "/dev/null")]
    assert curl("-w", "%{http_code} %{num_connects}\\n", *sinks, *urls).split("\n")[:-1] == ["200 1"] + ["200 0"] * 4


def test_an_answer_of_an_http_1_0_application_is_read_to_its_end(pair):
    assert curl(f"{pair.url}/old") == "until the end\n"


def test_an_early_answer_reaches_a_client_that_is_still_sending(pair):
    """The application answers and closes with the body unread, so its kernel resets the connection."""
    done = run(
        CURL,
        "-sS",
        "-o",
        "-",
        "-w",
        "%{http_code}",
        "--data-binary",
        "@-",
        "-H",
        "Expect:",
        f"{pair.url}/early",
        input=TEN_MEGABYTES,
    )
    assert done.stdout == b"too large\n413", done.stderr


def test_each_event_arrives_before_the_next_is_sent(pair, app):
    with running(CURL, "-sSN", f"{pair.url}/events") as child:
        for number in range(3):
            child.out.first(f"data: {number}".__eq__)
            app.next_event.release()
        assert child.wait(10) == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_caller_who_is_not_permitted_gets_403_and_a_request_id(stranger, app, version):
    before = len(app.seen)
    answer = curl(version, "-i", f"{stranger}/a")
    assert re.match(r"HTTP/[12](\.[01])? 403", answer)
    shown = re.search(r"^x-request-id: (\S+)\r$", answer, re.MULTILINE).group(1)
    assert answer.endswith(f"\r\n\r\ndenied (request id {shown})\n")
    assert len(app.seen) == before, "nothing reached the application"


def test_a_refused_request_is_found_in_the_log_by_its_id(pair, stranger):
    answer = curl("-i", f"{stranger}/secret")
    shown = re.search(r"^x-request-id: (\S+)\r$", answer, re.MULTILINE).group(1)
    line = pair.payments.accessed(request_id=shown)
    assert (line["verdict"], line["code"], line["src"]) == ("denied", "SG0202", spiffe_id("stranger"))


@pytest.mark.parametrize("path", ["/a/../b", "/a//b", "/a%2fb", "/a;b", "/%2e%2e/b", "/a%00"])
def test_an_ambiguous_path_is_refused_before_the_application(pair, app, path):
    before = len(app.seen)
    assert curl("--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", f"{pair.url}{path}") == "400"
    assert len(app.seen) == before


def test_two_framings_are_refused(pair, app):
    before = len(app.seen)
    framings = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"
    smuggled = b"POST / HTTP/1.1\r\nHost: a\r\n" + framings + b"\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n"
    assert received_before_the_end(pair.port, smuggled).startswith(b"HTTP/1.1 400 ")
    assert len(app.seen) == before, "nothing reached the application"
