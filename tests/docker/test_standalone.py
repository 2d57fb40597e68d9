"""The example of one sidecar with files on disk and no control plane."""

import pytest

from project import Project, eventually, on_host, run


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("alone") / "standalone", sample="standalone")
    project.files = []
    run("./certificates", cwd=project.folder)
    project.up()
    yield project
    project.down()


def call(project, path, *credentials):
    return on_host("curl", "-sk", "-m", "5", *credentials, f"https://127.0.0.1:15106/{path}", cwd=project.folder, check=False)


def test_a_single_container_judges_by_files_on_disk(alone):
    orders = ["--cert", "identity/orders.pem", "--key", "identity/orders.key"]
    eventually(lambda: call(alone, "charge.txt", *orders) == "charged\n")
    assert call(alone, "refund.txt", *orders).startswith("denied (request id ")
    assert "charged" not in call(alone, "charge.txt")
    policy = (alone.folder / "policies/payments.yaml").read_text()
    alone.write("policies/payments.yaml", policy.replace("/charge.txt", "/refund.txt"))
    eventually(lambda: call(alone, "refund.txt", *orders) == "refunded\n")
    assert call(alone, "charge.txt", *orders).startswith("denied (request id ")
