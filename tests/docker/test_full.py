"""What takes longer: other forms of the file, a restart of the engine, databases, thirty services."""

import os
import pathlib
import shutil
import subprocess

import pytest

from conftest import build
from project import Project, docker, eventually, get, run

pytestmark = pytest.mark.full

BUY = "http://127.0.0.1:8000/cgi-bin/buy"
CHARGED = "web: orders: payments: charged\n"


@pytest.fixture
def project(tmp_path):
    """`project(…)` makes one that is taken down after the test."""
    made = []

    def make(**what):
        made.append(Project(tmp_path / "shop", **what))
        return made[-1]

    yield make
    for one in made:
        one.down()


def test_a_fenced_application_survives_restarts_and_stays_closed(project):
    shop = project(sample="sample")
    shop.mesh("--merge")
    shop.up()
    eventually(lambda: get(BUY) == ("200", CHARGED))
    app = shop.address("payments", "payments-sidegate")
    for service in ("payments", "payments-sidegate", "orders-sidegate", "web", "sidegate-control-plane"):
        for end in ("restart", "kill"):
            if end == "restart":
                shop.compose("restart", "-t", "1", service)
            else:
                shop.kill(service)
                # Applications have no `restart` of their own in this file; the rest would come back by itself.
                docker("start", shop.container(service))
            assert get(f"http://{app}:8080/cgi-bin/charge")[0] == "000"
            eventually(lambda: get(BUY) == ("200", CHARGED))


def test_an_edited_policy_is_in_force_within_a_second(project):
    shop = project(sample="sample")
    shop.mesh()
    shop.up()
    eventually(lambda: get(BUY) == ("200", CHARGED))
    path = ".sidegate/policies/payments.yaml"
    text = (shop.folder / path).read_text()
    for _ in range(5):
        shop.write(path, text.replace("serviceAccounts: [shop/orders]", "serviceAccounts: [shop/web]"))
        _, took = eventually(lambda: "403" in get(BUY)[1])
        assert took < 1.0, took
        shop.write(path, text)
        _, took = eventually(lambda: get(BUY) == ("200", CHARGED))
        assert took < 1.0, took


def test_everything_is_back_after_a_restart_of_the_engine(project):
    shop = project(sample="sample")
    text = (shop.folder / "compose.yaml").read_text()
    shop.write("compose.yaml", text.replace("    image: busybox:stable\n", "    image: busybox:stable\n    restart: always\n"))
    shop.mesh()
    shop.up()
    eventually(lambda: get(BUY) == ("200", CHARGED))
    pid = pathlib.Path(os.environ["SIDEGATE_ENGINE_PID"])
    old = int(pid.read_text())
    os.kill(old, 15)
    eventually(lambda: pid.exists() and int(pid.read_text() or old) != old)
    eventually(lambda: subprocess.run(["docker", "ps"], capture_output=True).returncode == 0)
    eventually(lambda: get(BUY) == ("200", CHARGED), within=240)


EXOTIC = """
name: exotic
x-common: &common {image: "busybox:stable", env_file: web.env}
services:
  web:
    <<: *common
    container_name: Front_Door
    command: sh -c "mkdir -p /srv; echo web >/srv/x; httpd -p 8101 -h /srv; exec httpd -f -p 8102 -h /srv"
    ports: ["127.0.0.1:8101-8102:8101-8102/tcp"]
  built:
    build: ./built
    networks: {back: {aliases: [api]}}
    expose: ["8080"]
  tool:
    <<: *common
    profiles: [debug]
    command: sleep 3600
    depends_on: {built: {condition: service_started}}
networks: {back: {}}
"""


@pytest.mark.parametrize("form", [[], ["--merge"]])
def test_an_exotic_file_is_taken_by_compose_as_it_was_meant(project, form):
    exotic = project(text=EXOTIC)
    exotic.write("web.env", "export API_URL=http://api:8080 # the alias of `built`\n")
    (exotic.folder / "built").mkdir()
    exotic.write("built/Dockerfile", "FROM busybox:stable\nCMD mkdir -p /srv; echo built >/srv/x; exec httpd -f -p 8080 -h /srv\n")
    exotic.mesh(*form)
    exotic.up("--build")
    for port in (8101, 8102):
        eventually(lambda: get(f"http://127.0.0.1:{port}/x") == ("200", "web\n"))
    eventually(lambda: exotic.inside("web", "timeout", "5", "wget", "-qO-", "http://api:8080/x") == "built\n")
    assert exotic.container("tool") == ""
    exotic.files = ["--profile", "debug", *exotic.files]
    exotic.up()
    eventually(lambda: exotic.inside("tool", "timeout", "5", "wget", "-qO-", "http://built:8080/x") == "built\n")
    assert "web\n" not in exotic.inside("tool", "timeout", "5", "wget", "-qO-", "http://web:8101/x")


def test_thirty_services_come_up_and_call_each_other(project):
    services = "".join(
        f"  s{number}:\n    image: busybox:stable\n    expose: [8080]\n"
        f"    command: sh -c 'mkdir -p /srv; echo {number} >/srv/n; exec httpd -f -p 8080 -h /srv'\n"
        + (f"    depends_on: [s{number + 1}]\n" if number < 30 else "")
        for number in range(1, 31)
    )
    many = project(text=f"name: many\nservices:\n{services}")
    many.mesh()
    many.up(within=600)
    for number in range(1, 30):
        ask = ["timeout", "10", "wget", "-qO-", f"http://s{number + 1}:8080/n"]
        eventually(lambda: many.inside(f"s{number}", *ask) == f"{number + 1}\n")
    assert "30 of 30 connected" in many.inside("sidegate-control-plane", "/sidegate", "status")


DATABASES = """
name: data
services:
  client:
    image: test/databases
    command: sleep 3600
    environment: {DATABASE_URL: "postgres://postgres@db/postgres", REDIS_URL: "redis://cache"}
  stranger:
    image: test/databases
    command: sleep 3600
    labels: {sidegate.dev/upstreams: ""}
  db:
    image: test/databases
    user: "65534"
    labels: {sidegate.dev/ports: "5432/tcp"}
    tmpfs: ["/tmp:uid=65534"]
    command: sh -c "initdb -A trust -U postgres -D /tmp/pg && echo 'host all all all trust' >>/tmp/pg/pg_hba.conf &&
      exec postgres -D /tmp/pg -k /tmp -h '*'"
  cache:
    image: test/databases
    labels: {sidegate.dev/ports: "6379/tcp"}
    command: redis-server --protected-mode no --save ''
"""


def test_postgresql_and_redis_work_behind_sidecars(project, tmp_path):
    databases_image(tmp_path / "image")
    data = project(text=DATABASES)
    data.mesh()
    data.up()
    query = ["psql", "-h", "db", "-U", "postgres", "-Atc", "select 6 * 7"]
    eventually(lambda: data.inside("client", *query) == "42\n")
    eventually(lambda: data.inside("client", "redis-cli", "-h", "cache", "ping") == "PONG\n")
    # The stranger's fence has no such name, and its identity no such permission.
    assert "42" not in data.inside("stranger", *query)
    data.kill("db-sidegate")
    eventually(lambda: data.inside("client", *query) == "42\n")


def databases_image(folder):
    """This machine's PostgreSQL and redis, with the libraries they need, in an image."""
    postgres = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    names = ["postgres", "initdb", "psql"]
    programs = {str(postgres / name): f"bin/{name}" for name in names}
    programs |= {shutil.which("redis-server"): "bin/redis-server", shutil.which("redis-cli"): "bin/redis-cli"}
    files = {path: path.lstrip("/") for path in (str(postgres / "postgres"), str(postgres / "initdb"))}
    for program in programs:
        for word in run("ldd", program).split():
            if word.startswith("/"):
                files[word] = word.lstrip("/")
    for source, target in (programs | files).items():
        place = folder / "root" / target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
    share = pathlib.Path("/usr/share/postgresql") / postgres.parent.name
    shutil.copytree(share, folder / "root" / share.relative_to("/"), ignore=shutil.ignore_patterns("man", "doc"))
    modules = postgres.parent / "lib"
    (folder / "root" / modules.relative_to("/")).mkdir(parents=True, exist_ok=True)
    for name in ("plpgsql.so", "dict_snowball.so"):
        shutil.copy(modules / name, folder / "root" / modules.relative_to("/") / name)
    (folder / "root/etc").mkdir(parents=True)
    (folder / "root/etc/passwd").write_text("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n")
    binaries = str(postgres)
    (folder / "Dockerfile").write_text(
        f'FROM busybox:stable\nCOPY root/ /\nENV PATH={binaries}:/bin LC_ALL=C TZ=UTC\nRUN ["/bin/mkdir", "-p", "/tmp"]\n'
    )
    build(folder, folder / "Dockerfile", "test/databases")
