"""MariaDB: the server speaks first."""

import hashlib
import shutil
import time

import pytest

from program import accepts, find, free_port, received_before_the_end, run, running, text

SERVER = find("mariadbd", "mariadb-server")
INSTALL = find("mariadb-install-db", "mariadb-server")
CLIENT = find("mariadb", "mariadb-client")
ADMIN = find("mariadb-admin", "mariadb-client")
DUMP = find("mariadb-dump", "mariadb-client")


@pytest.fixture(scope="module")
def server(ends, folder):
    """The port of a server that does not run as root, so its folder is another user's."""
    home = folder / "mariadb"
    home.mkdir()
    shutil.chown(home, "mysql", "mysql")
    as_mysql = {"user": "mysql", "group": "mysql", "extra_groups": [], "cwd": home}
    text(
        INSTALL,
        "--no-defaults",
        f"--datadir={home}/data",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        **as_mysql,
    )
    port = free_port()
    child = ends.enter_context(
        running(
            *(SERVER, "--no-defaults", f"--datadir={home}/data", f"--socket={home}/socket", f"--port={port}"),
            *("--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"),
            **as_mysql,
        )
    )
    accepts(port, child)
    return port


@pytest.fixture(scope="module")
def pair(server, behind_sidecars):
    return behind_sidecars(server, "tcp")


def arguments(port):
    return "--no-defaults", "--protocol=TCP", "-h", "127.0.0.1", "-P", port, "-u", "root", "--connect-timeout=10"


def sql(port, statement, **options):
    return text(CLIENT, *arguments(port), "-N", "-B", "-e", statement, **options).strip()


def test_a_session_begins_without_a_stall(pair):
    """Nobody waits for first bytes of a client that sends none."""
    begun = time.monotonic()
    assert sql(pair.port, "select 6 * 7") == "42"
    assert time.monotonic() - begun < 2


def test_the_greeting_is_the_servers_own(pair):
    assert "MariaDB" in sql(pair.port, "select version()")


def test_a_port_without_a_declared_protocol_carries_it_after_the_wait_for_first_bytes(server, behind_sidecars):
    assert sql(behind_sidecars(server, "auto").port, "select 6 * 7") == "42"


def test_a_value_of_eight_megabytes_comes_back_to_the_byte(pair):
    value = sql(pair.port, "select repeat('0123456789abcdef', 524288)")
    assert hashlib.sha256(value.encode()).digest() == hashlib.sha256(b"0123456789abcdef" * 524288).digest()


def test_rows_that_go_in_are_dumped_again(pair):
    rows = ",".join(f"({n},'{n * n}')" for n in range(10_000))
    script = f"create database shop; use shop; create table t (n int primary key, s text); insert into t values {rows};"
    text(CLIENT, *arguments(pair.port), input=script.encode())
    assert sql(pair.port, "select count(*), sum(n), sum(s) from shop.t") == "10000\t49995000\t333283335000"
    dumped = text(DUMP, *arguments(pair.port)[:-1], "--compact", "--no-create-info", "shop")
    assert "(9999,'99980001')" in dumped


def test_a_caller_who_is_not_permitted_does_not_even_get_the_greeting(pair, server):
    stranger = pair.stranger()
    count = "select variable_value from information_schema.global_status where variable_name = 'Connections'"
    before = int(sql(server, count))
    done = run(ADMIN, *arguments(stranger), "ping")
    assert done.returncode != 0
    assert received_before_the_end(stranger) == b""
    assert int(sql(server, count)) == before + 1, "the one that asks is the only new connection"
