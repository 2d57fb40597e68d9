"""h2spec, the conformance suite for HTTP/2 servers, against the port on which an application calls."""

import re

import pytest

from http_app import http_app
from program import find, run

H2SPEC = find("h2spec", "it comes from the Go module proxy, see the script `run`")


@pytest.fixture(scope="module")
def pair(ends, behind_sidecars):
    return behind_sidecars(ends.enter_context(http_app()).port, "http")


@pytest.mark.parametrize("section", ["generic", "http2", "hpack"])
def test_h2spec_finds_no_fault(pair, section):
    printed = run(H2SPEC, section, "-h", "127.0.0.1", "-p", pair.port, "-o", 5, patience=120).stdout.decode()
    counted = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", printed)
    tests, passed, *rest = (int(number) for number in counted.groups())
    assert tests == passed > 0 and rest == [0, 0], printed[printed.find("Failures:") :]
