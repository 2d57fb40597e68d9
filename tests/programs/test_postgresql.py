"""PostgreSQL: the client speaks first, asks for TLS in a message of the protocol's own, and cancels on a second
connection."""

import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

from nginx import own_certificate
from program import accepts, find, free_port, received_before_the_end, run, running, text, until

SERVERS = [str(path) for path in sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))]
POSTGRES = find("postgres", "postgresql", *SERVERS)
INITDB = find("initdb", "postgresql", *SERVERS)
PGBENCH = find("pgbench", "postgresql", *SERVERS)
PSQL = find("psql", "postgresql-client")
ROWS = 100_000


class Server:
    def __init__(self, port, log):
        self.port, self.log = port, log

    def connections(self):
        return sum("connection received" in line for line in self.log.all())


@pytest.fixture(scope="module")
def server(ends, folder):
    """It does not run as root, so its folder is another user's."""
    home = folder / "postgresql"
    home.mkdir()
    own_certificate(home, "localhost")
    shutil.chown(home, "postgres", "postgres")
    for file in home.iterdir():
        shutil.chown(file, "postgres", "postgres")
        file.chmod(0o600)
    as_postgres = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": home}
    text(INITDB, "-D", home / "data", "-A", "trust", "-U", "postgres", "--no-sync", **as_postgres)
    port = free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "ssl": "on",
        "ssl_cert_file": home / "certificate.pem",
        "ssl_key_file": home / "key.pem",
        "log_connections": "on",
        "fsync": "off",
    }
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    # The fast shutdown, which gives its shared memory back.
    child = ends.enter_context(
        running(POSTGRES, "-D", home / "data", "-p", port, *arguments, stop=signal.SIGINT, **as_postgres)
    )
    accepts(port, child)
    child.err.first(lambda line: "ready to accept connections" in line)
    return Server(port, child.err)


@pytest.fixture(scope="module")
def pair(server, behind_sidecars):
    return behind_sidecars(server.port, "tcp")


def psql(port, sql, *arguments, sslmode="disable", **options):
    where = f"host=127.0.0.1 port={port} user=postgres dbname=postgres connect_timeout=10"
    settings = f"{where} sslmode={sslmode} gssencmode=disable"
    return run(PSQL, settings, "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", *arguments, "-c", sql, **options)


def printed(*arguments, **options):
    done = psql(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


@pytest.mark.parametrize("sslmode, wanted", [("disable", "f"), ("prefer", "t"), ("require", "t")])
def test_a_session_has_the_tls_that_its_two_ends_agree_on(pair, sslmode, wanted):
    asked = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
    assert printed(pair.port, asked, sslmode=sslmode) == wanted


def test_a_port_without_a_declared_protocol_carries_it_too(server, behind_sidecars):
    port = behind_sidecars(server.port, "auto").port
    assert printed(port, "select 6 * 7", sslmode="require") == "42"
    assert printed(port, "select 6 * 7", sslmode="disable") == "42"


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_a_hundred_thousand_rows_go_in_and_come_out_to_the_byte(pair, sslmode):
    rows = "".join(f"{n}\t{hashlib.md5(str(n).encode()).hexdigest()}\n" for n in range(ROWS)).encode()
    printed(pair.port, "drop table if exists rows; create table rows (n int primary key, t text)")
    printed(pair.port, "copy rows from stdin", sslmode=sslmode, input=rows)
    done = psql(pair.port, "copy (select * from rows order by n) to stdout", sslmode=sslmode)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(rows).digest()


def test_a_query_is_cancelled_over_a_connection_of_its_own(pair):
    settings = f"host=127.0.0.1 port={pair.port} user=postgres dbname=postgres sslmode=disable"
    with subprocess.Popen([PSQL, settings, "-X", "-c", "select pg_sleep(60)"], stderr=subprocess.PIPE) as child:
        asleep = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'"
        until(lambda: printed(pair.port, asleep) == "1", "the query runs")
        os.kill(child.pid, signal.SIGINT)
        assert b"canceling statement due to user request" in child.communicate(timeout=20)[1]


def test_pgbench_loses_no_transaction(pair):
    settings = ["-h", "127.0.0.1", "-p", pair.port, "-U", "postgres"]
    text(PGBENCH, *settings, "-i", "-q", "postgres")
    done = text(PGBENCH, *settings, "-c", 8, "-j", 2, "-t", 100, "-n", "postgres")
    assert re.search(r"actually processed: 800/800", done), done
    assert re.search(r"number of failed transactions: 0 ", done), done


def test_pgbench_with_a_new_connection_for_each_transaction_loses_none(pair):
    done = text(
        PGBENCH, "-h", "127.0.0.1", "-p", pair.port, "-U", "postgres", "-C", "-S", "-c", 4, "-t", 25, "-n", "postgres"
    )
    assert re.search(r"actually processed: 100/100", done), done


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_a_caller_who_is_not_permitted_does_not_reach_the_server(pair, server, sslmode):
    stranger, before = pair.stranger(), server.connections()
    done = psql(stranger, "select 1", sslmode=sslmode)
    assert done.returncode == 2
    assert received_before_the_end(stranger, b"\x00\x00\x00\x08\x04\xd2\x16\x2f") == b""
    assert server.connections() == before, "nothing reached the server"
    assert pair.payments.accessed(protocol="tcp", verdict="denied")["code"] == "SG0202"
