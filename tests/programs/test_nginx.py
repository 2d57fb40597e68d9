"""nginx as the application, curl as the caller."""

import gzip
import hashlib

import pytest

from nginx import LARGE, TEXT, nginx
from program import find, received_before_the_end, run

CURL = find("curl", "curl")


@pytest.fixture(scope="module")
def server(ends, folder):
    return ends.enter_context(nginx(folder / "nginx"))


@pytest.fixture(scope="module")
def pair(server, behind_sidecars):
    return behind_sidecars(server.http1, "http")


def curl(*arguments):
    done = run(CURL, "-sS", "--max-time", 20, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2-prior-knowledge"])
def test_a_file_of_twenty_megabytes_arrives_to_the_byte(pair, version):
    assert hashlib.sha256(curl(version, f"{pair.url}/large.bin")).digest() == hashlib.sha256(LARGE).digest()


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
@pytest.mark.parametrize("range_, wanted", [("0-0", LARGE[:1]), ("1000-1999", LARGE[1000:2000]), ("-5", LARGE[-5:])])
def test_a_range_is_exactly_that_range(pair, version, range_, wanted):
    answer = curl(version, "-i", "-r", range_, f"{pair.url}/large.bin")
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.split()[1] == b"206"
    assert body == wanted


def test_a_range_that_cannot_be_served_is_416(pair):
    assert curl("-o", "/dev/null", "-w", "%{http_code}", "-r", "99999999-", f"{pair.url}/large.bin") == b"416"


def test_compressed_chunks_pass_as_they_are(pair, folder):
    head = folder / "head"
    compressed = curl("-D", head, "-H", "Accept-Encoding: gzip", f"{pair.url}/text.txt")
    assert b"content-encoding: gzip" in head.read_bytes().lower()
    assert b"transfer-encoding: chunked" in head.read_bytes().lower()
    assert gzip.decompress(compressed) == TEXT


def test_a_head_request_says_the_length_and_sends_nothing(pair):
    head = curl("-I", f"{pair.url}/large.bin")
    assert f"content-length: {len(LARGE)}\r\n".encode() in head.lower()


def test_a_conditional_request_is_304_without_a_body(pair):
    etag = next(line for line in curl("-I", f"{pair.url}/large.bin").split(b"\r\n") if line.lower().startswith(b"etag"))
    answer = curl("-i", "-H", "If-None-Match:" + etag.decode().split(":", 1)[1], f"{pair.url}/large.bin")
    assert answer.split()[1] == b"304"
    assert answer.endswith(b"\r\n\r\n")


def test_the_applications_own_tls_passes_through_unbroken(server, behind_sidecars):
    """The certificate that curl verifies is nginx's own: nobody in between ended the TLS."""
    for protocol in ["tcp", "auto"]:
        port = behind_sidecars(server.tls, protocol).port
        own = ("--cacert", server.folder / "certificate.pem", "--resolve", f"localhost:{port}:127.0.0.1")
        body = curl(*own, f"https://localhost:{port}/large.bin")
        assert hashlib.sha256(body).digest() == hashlib.sha256(LARGE).digest()


def test_a_caller_who_is_not_permitted_does_not_see_the_applications_tls(server, behind_sidecars):
    stranger = behind_sidecars(server.tls, "tcp").stranger()
    done = run(CURL, "-skS", "--max-time", 20, f"https://127.0.0.1:{stranger}/small.txt")
    assert done.returncode == 35, (done.returncode, done.stderr)
    assert received_before_the_end(stranger) == b""


def test_an_http_port_refuses_what_is_not_http(pair, server):
    before = server.requests()
    assert received_before_the_end(pair.port, b"\x16\x03\x01\x00\x05hello") == b""
    assert server.requests() == before
