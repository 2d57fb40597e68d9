"""Sidecars of several users on the control plane's host, who prove who they are by their processes alone."""

import json
import os
import shutil
from contextlib import contextmanager

import pytest

from mesh import SIDEGATE, spiffe_id
from program import find, run, running, until

CAT, SLEEP = find("cat", "coreutils"), find("sleep", "coreutils")

MESH = """
apiVersion: sidegate.dev/v1alpha1
kind: Mesh
trustDomain: shop.test
policies: policies
state: state
listen: {grpc: "127.0.0.1:0", api: "127.0.0.1:0", socket: run/local.sock}
services:
- {namespace: shop, name: orders, localUsers: [{uid: 4001}]}
- {namespace: shop, name: payments, localUsers: [{uid: 4002, gid: 50}]}
"""

SIDECAR = """
trustDomain: shop.test
workload: {{namespace: shop, serviceAccount: {account}}}
controlPlane: {{address: "unix:../run/local.sock", trustBundle: ../root.pem}}
outbound: [{{listen: "127.0.0.1:0", service: payments, protocol: tcp}}]
"""


@pytest.fixture(scope="module")
def mesh(ends, folder):
    """The folder of a control plane that runs as root, and its program where every user may run it."""
    (folder / "policies").mkdir()
    (folder / "mesh.yaml").write_text(MESH)
    shutil.copy(SIDEGATE, folder / "sidegate")
    child = ends.enter_context(running(SIDEGATE, "control-plane", "--config", folder / "mesh.yaml"))
    child.err.first(lambda line: '"listener":"socket"' in line)
    shutil.copy(folder / "state/root.pem", folder / "root.pem")
    os.chmod(folder / "root.pem", 0o644)
    return folder


@contextmanager
def sidecar(mesh, account, uid, gid):
    place = mesh / f"{account}-{uid}-{gid}"
    place.mkdir()
    (place / "proxy.yaml").write_text(SIDECAR.format(account=account))
    user = {"user": uid, "group": gid, "extra_groups": []}
    with running(mesh / "sidegate", "proxy", "--config", place / "proxy.yaml", **user) as child:
        yield child


def records(mesh, *arguments):
    done = run(SIDEGATE, "certs", "list", "--mesh", mesh / "mesh.yaml", "-o", "json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["records"]


@pytest.mark.parametrize(("account", "uid", "gid"), [("orders", 4001, 77), ("payments", 4002, 50)])
def test_a_process_of_a_listed_user_is_its_service_without_a_token(mesh, account, uid, gid):
    with sidecar(mesh, account, uid, gid) as child:
        issued = child.err.first(lambda line: "certificate issued" in line and line)
    assert spiffe_id(account) in issued
    proofs = [(record["attestor"], record["evidence"]) for record in records(mesh, "--id", f"shop/{account}")]
    assert ("unix", f"uid {uid}, gid {gid}") in proofs


@pytest.mark.parametrize(("account", "uid", "gid"), [("payments", 4002, 77), ("orders", 4003, 4001), ("orders", 0, 0)])
def test_a_process_of_anybody_else_is_refused_with_a_code_and_on_record(mesh, account, uid, gid):
    with sidecar(mesh, account, uid, gid) as child:
        refused = child.err.first(lambda line: "no new certificate" in line and line)
        assert "SG0365" in refused, "root is nobody in particular, either"
        caller = f"uid {uid}, gid {gid}, pid {child.pid}"
        assert caller in [record["caller"] for record in records(mesh, "--refused") if record["code"] == "SG0365"]
        assert not [line for line in child.err.all() if "certificate issued" in line]


def test_another_process_of_the_user_reads_nothing_of_a_sidecars_memory(mesh):
    user = {"user": 4001, "group": 4001, "extra_groups": []}
    with sidecar(mesh, "orders", 4001, 4001) as child, running(SLEEP, 60, **user) as other:
        child.err.first(lambda line: "certificate issued" in line)
        until(lambda: run(CAT, f"/proc/{other.pid}/environ", **user).returncode == 0, "as a rule it may")
        for name in ["environ", "mem", "maps"]:
            refused = run(CAT, f"/proc/{child.pid}/{name}", **user)
            assert refused.returncode != 0 and b"Permission denied" in refused.stderr, name


def test_a_process_of_a_listed_user_is_no_other_service(mesh):
    with sidecar(mesh, "payments", 4001, 4001) as child:
        refused = child.err.first(lambda line: "no new certificate" in line and line)
    assert "SG0313" in refused and spiffe_id("orders") in refused
