"""Images that every test uses, built from this checkout and from Debian's busybox."""

import os
import pathlib
import shutil

import pytest

from project import REPOSITORY, Project, docker


@pytest.fixture(scope="session", autouse=True)
def images(tmp_path_factory):
    context = pathlib.Path(os.environ["SIDEGATE_IMAGES"])
    arch = next(arch for arch in ("amd64", "arm64") if (context / arch).exists())
    version = next(
        line.split('"')[1] for line in (REPOSITORY / "Cargo.toml").read_text().splitlines() if line.startswith("version")
    )
    for name in ("proxy", "proxy-capture", "control-plane"):
        build(context, REPOSITORY / f"deploy/images/{name}.Dockerfile", f"sidegate/{name}:{version}",
              TARGETARCH=arch, VERSION=version, REVISION="test")
    busybox = tmp_path_factory.mktemp("busybox")
    shutil.copy(shutil.which("busybox"), busybox / "busybox")
    (busybox / "Dockerfile").write_text(
        'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
        'ENV PATH=/bin\nCMD ["sh"]\n'
    )
    build(busybox, busybox / "Dockerfile", "busybox:stable")


def build(context, dockerfile, tag, **arguments):
    pairs = [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
    docker("build", "-q", "-f", str(dockerfile), "-t", tag, *pairs, str(context))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The sample application behind its sidecars."""
    project = Project(tmp_path_factory.mktemp("shop") / "shop", sample="sample")
    project.mesh()
    project.up()
    yield project
    project.down()
