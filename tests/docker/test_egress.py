"""Hosts outside of the project: reached by whom a label names, under a policy, and by nobody else."""

import pytest

from project import Project, answers, eventually, get, host_serves, knock

pytestmark = pytest.mark.full

SERVICES = """
name: out
services:
  web:
    image: busybox:stable
    command: sleep 3600
    labels: {sidegate.dev/egress: "api.example.test:8099"}
  clear:
    image: busybox:stable
    command: sleep 3600
    labels: {sidegate.dev/egress: "api.example.test:8099", sidegate.dev/mode: transparent}
  worker:
    image: busybox:stable
    command: sleep 3600
    environment: {API: "http://api.example.test:8099"}
"""
# In place of a resolver that knows the host.
RESOLVED = "services: {api-example-test-sidegate: {extra_hosts: ['api.example.test:10.83.0.1']}}\n"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("out") / "out", text=SERVICES)
    project.write("resolved.yaml", RESOLVED)
    project.sidegate("compose", "init", "--subnet", "10.83.0.0/20")
    project.sidegate("compose", "inject")
    project.files = [*project.files, "-f", "resolved.yaml"]
    with host_serves(tmp_path_factory.mktemp("outside"), 8099, "outside"):
        project.up()
        yield project
        project.down()


def called(project, service):
    """The answer to a service's call; its body alone if all is well. The wget of a static busybox crashes over names with dots."""
    request = "GET /x HTTP/1.0\\r\\nHost: api.example.test:8099\\r\\n\\r\\n"
    ask = f"(printf '{request}'; sleep 3) | nc -w 3 api.example.test 8099"
    said = project.inside(service, "sh", "-c", ask)
    return said.rpartition("\n\n")[2] if said.startswith("HTTP/1.0 200 OK") else said


def test_a_host_outside_is_reached_by_whom_a_label_names(out):
    assert get("http://10.83.0.1:8099/x") == ("200", "outside")
    for service in ("web", "clear"):
        eventually(lambda: called(out, service) == "outside")
        wanted = [f"out/{service}", "out/api-example-test"]
        eventually(lambda: any(line.split()[:2] == wanted for line in edges_of(out)))


def test_what_no_label_names_stays_inside(out):
    assert "outside" not in called(out, "worker")
    for service in ("web", "clear", "worker"):
        targets = [("10.83.0.1", "8099"), ("10.83.0.1", "22"), ("192.0.2.1", "80")]
        said = answers(out.inside(service, *knock("/x", *targets)), targets)
        assert not any("HTTP/1" in text for text in said.values()), (service, said)


def test_a_policy_decides_who_goes_outside(out):
    eventually(lambda: called(out, "web") == "outside")
    path = ".sidegate/policies/api-example-test.yaml"
    text = (out.folder / path).read_text()
    out.write(path, text.replace("[out/web]", "[out/worker]"))
    eventually(lambda: " 403 " in called(out, "web"))
    assert called(out, "clear") == "outside"
    out.write(path, text)
    eventually(lambda: called(out, "web") == "outside")


def edges_of(project):
    return project.inside("sidegate-control-plane", "/sidegate", "get", "edges").splitlines()
