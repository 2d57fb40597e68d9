"""The registry of the control plane in PostgreSQL: several control planes, of which one issues."""

import collections
import concurrent.futures
import datetime
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh import SIDEGATE
from nginx import own_certificate
from program import PATIENCE, accepts, find, free_port, run, running, text, until

SERVERS = [str(path) for path in sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))]
POSTGRES = find("postgres", "postgresql", *SERVERS)
INITDB = find("initdb", "postgresql", *SERVERS)
PSQL = find("psql", "postgresql-client")
CURL = find("curl", "curl")
MOUNT, UMOUNT = find("mount", "mount"), find("umount", "mount")
LEASE = 3

MESH = """
apiVersion: sidegate.dev/v1alpha1
kind: Mesh
trustDomain: shop.test
policies: ../policies
state: {state}
registry: {{postgresql: {{server: "{server}", database: postgres, user: postgres, lease: {lease}s{more}}}}}
listen: {{grpc: "127.0.0.1:{grpc}", api: "127.0.0.1:{api}"}}
services:
- {{namespace: shop, name: payments, joinTokens: ["sha256:{token}"]}}
"""


class Database:
    """A real server, that can be stopped and started again."""

    def __init__(self, home):
        self.home, self.port = home, free_port()
        os.chmod(home, 0o700)
        own_certificate(home, "localhost")
        for path in [home, *home.iterdir()]:
            shutil.chown(path, "postgres", "postgres")
            if path.is_file():
                path.chmod(0o600)
        self.user = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": home}
        (home / "password").write_text("of nobody's business")
        shutil.chown(home / "password", "postgres", "postgres")
        options = ["-A", "scram-sha-256", "--pwfile", home / "password", "-U", "postgres", "--no-sync", "--wal-segsize=1"]
        text(INITDB, "-D", home / "data", *options, **self.user)
        (home / "password").chmod(0o600)
        shutil.chown(home / "password", "root", "root")

    @contextmanager
    def started(self):
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "ssl": "on",
            "ssl_cert_file": self.home / "certificate.pem",
            "ssl_key_file": self.home / "key.pem",
            "shared_buffers": "16MB",
            "max_wal_size": "8MB",
            "min_wal_size": "2MB",
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [POSTGRES, "-D", self.home / "data", "-p", self.port, *arguments]
        with running(*command, stop=signal.SIGINT, **self.user) as child:
            accepts(self.port, child)
            child.err.first(lambda line: "ready to accept connections" in line)
            yield child

    def settings(self):
        where = f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres connect_timeout=10"
        return [PSQL, where, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"], {
            "env": {**os.environ, "PGPASSWORD": "of nobody's business"}
        }

    def said(self, sql):
        command, options = self.settings()
        return text(*command, "-c", sql, **options).strip()

    @contextmanager
    def holding(self, table):
        """Nobody writes to the table while the block runs. Hands over a session in that transaction."""
        command, options = self.settings()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes, **options) as session:

            def say(sql):
                session.stdin.write(f"{sql};\n\\echo done\n")
                session.stdin.flush()
                for line in session.stdout:
                    if line == "done\n":
                        return
                raise AssertionError("the session ended")

            say(f"BEGIN; LOCK TABLE sidegate.{table} IN EXCLUSIVE MODE")
            try:
                yield say
            finally:
                session.stdin.close()
                session.wait(10)

    def waiting(self):
        return int(self.said("SELECT count(*) FROM pg_locks WHERE NOT granted"))

    def records(self):
        return int(self.said("SELECT count(*) FROM sidegate.record WHERE serial IS NOT NULL"))


class ControlPlane:
    """One of several, with a file of its own and by default the state folder that they share."""

    def __init__(self, folder, name, database, state="../state", server=None, more=None, lease=LEASE):
        self.folder = folder / name
        self.folder.mkdir()
        (folder / "policies").mkdir(exist_ok=True)
        self.grpc, self.api = free_port(), free_port()
        if more is None:
            more = f", passwordFile: {database.home}/password"
        self.file = self.folder / "mesh.yaml"
        server = server or f"127.0.0.1:{database.port}"
        token = hashlib.sha256(b"payments").hexdigest()
        ports = {"grpc": self.grpc, "api": self.api}
        self.file.write_text(MESH.format(state=state, server=server, lease=lease, more=more, token=token, **ports))
        self.child = None

    @contextmanager
    def started(self):
        with running(SIDEGATE, "control-plane", "--config", self.file, stop=signal.SIGKILL) as self.child:
            yield self

    def said(self, words):
        return self.child.err.first(lambda line: words in line and line)

    def serves(self):
        self.said('"listener":"grpc"')
        return self

    def stands_by(self):
        self.said("standing by")
        return self

    def livez(self):
        return text(CURL, "-sS", "--max-time", 5, f"http://127.0.0.1:{self.api}/livez")

    def active(self):
        """What its metrics say of whose turn it is."""
        shown = text(CURL, "-sS", "--max-time", 5, f"http://127.0.0.1:{self.api}/metrics")
        return int(re.search(r"^sidegate_control_plane_active (\d+)$", shown, re.MULTILINE)[1])

    def status(self, *arguments):
        return run(SIDEGATE, "status", "--api", f"http://127.0.0.1:{self.api}", *arguments)

    def kill(self):
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(10)

    def certs(self, *arguments):
        return run(SIDEGATE, "certs", *arguments, "--mesh", self.file)

    def listed(self, *arguments):
        done = self.certs("list", "--limit", 100_000, "-o", "json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["records"]

    def issue(self):
        """The serial number of a certificate, or what was answered in its place."""
        return issue(self.grpc)


KEY = ec.generate_private_key(ec.SECP256R1())
CSR = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(KEY, hashes.SHA256())
Answer = collections.namedtuple("Answer", ["serial", "refusal"])


def issue(port, token=b"payments"):
    csr = CSR.public_bytes(serialization.Encoding.DER)
    message = b"\x0a" + varint(len(csr)) + csr + b"\x12" + varint(len(token)) + token
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-D", "/dev/stderr"]
    url = f"https://127.0.0.1:{port}/sidegate.v1.Identity/Issue"
    # The server's name is an identity, which curl does not know; who it is is not what these tests are about.
    done = run(CURL, "-sS", "-k", "--http2", "--max-time", 20, *headers, "--data-binary", "@-", url, input=framed)
    if done.stdout:
        # Behind the frame's head, the first field is the certificate.
        return Answer(f"{x509.load_der_x509_certificate(field(done.stdout[6:])).serial_number:032x}", None)
    said = re.search(rb"grpc-message: ([^\r\n]*)", done.stderr)
    return Answer(None, (said[1] if said else done.stderr).decode(errors="replace"))


def varint(number):
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(encoded):
    """The bytes of the field whose length comes first."""
    length, shift = 0, 0
    for position, byte in enumerate(encoded):
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return encoded[position + 1 : position + 1 + length]
    raise AssertionError("no length")


def certified(folder, host):
    """Lets an authority of the test's own vouch for the server under this name, and returns the authority's file."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject, key, issuer, by, extension):
        name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])  # noqa: E731
        begun = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
        begun = begun.public_key(key.public_key()).serial_number(x509.random_serial_number())
        begun = begun.not_valid_before(now - DAY).not_valid_after(now + DAY).add_extension(extension, True)
        return begun.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = folder / f"authority-of-{host}.pem"
    authority.write_bytes(certificate("root", root, "root", root, x509.BasicConstraints(True, None)))
    names = x509.SubjectAlternativeName([x509.DNSName(host)])
    (folder / "certificate.pem").write_bytes(certificate(host, key, "root", root, names))
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*pem))
    return authority


@pytest.fixture(scope="module")
def database(ends, folder):
    home = folder / "postgresql"
    home.mkdir()
    database = Database(home)
    ends.enter_context(database.started())
    return database


@pytest.fixture
def registry(database):
    """The database without a registry in it."""
    database.said("DROP SCHEMA IF EXISTS sidegate CASCADE")
    return database


def test_a_certificate_is_on_record_and_is_found_by_its_moment(registry, tmp_path):
    with ControlPlane(tmp_path, "a", registry).started() as a:
        serial = a.serves().issue().serial
        assert [listed["serial"] for listed in a.listed("--id", "shop/payments")] == [serial]
        assert [listed["serial"] for listed in a.listed("--at", now())] != []
        assert a.listed("--at", "2020-01-01T00:00:00Z") == []
        shown = json.loads(a.certs("show", serial, "-o", "json").stdout)
        assert (shown["certificate"]["identity"], shown["validAt"]) == ("spiffe://shop.test/ns/shop/sa/payments", True)
        assert not json.loads(a.certs("show", serial, "--at", "2100-01-01T00:00:00Z", "-o", "json").stdout)["validAt"]
        assert a.certs("verify").returncode == 0
        # Whoever writes to the database alone is found.
        registry.said("UPDATE sidegate.record SET body = replace(body, 'sa/payments', 'sa/checkout')")
        done = a.certs("verify")
        assert done.returncode != 0 and b"SG0340" in done.stderr, done.stderr
    with ControlPlane(tmp_path, "b", registry).started() as b:
        assert "SG0340" in b.said("cannot start")


def test_of_two_control_planes_one_issues_and_the_other_takes_over_when_it_is_killed(registry, tmp_path):
    a, b = ControlPlane(tmp_path, "a", registry), ControlPlane(tmp_path, "b", registry)
    with a.started(), b.started():
        first, second = (a, b) if serving_first(a, b) is a else (b, a)
        second.stands_by()
        assert second.livez() == "standby\n"
        assert first.issue().serial and not second.issue().serial
        first.kill()
        second.serves()
        assert second.issue().serial
        assert len(second.listed("--id", "shop/payments")) == 2
        assert second.certs("verify").returncode == 0


def test_whose_turn_it_is_is_measured_and_told(registry, tmp_path):
    a, b = ControlPlane(tmp_path, "a", registry), ControlPlane(tmp_path, "b", registry)
    with a.started(), b.started():
        first, second = (a, b) if serving_first(a, b) is a else (b, a)
        second.stands_by()
        assert (first.active(), second.active()) == (1, 0)
        told = json.loads(first.status("-o", "json").stdout)
        assert told["registry"] == {"place": f"postgresql 127.0.0.1:{registry.port} database postgres", "active": True}
        waits = second.status()
        assert waits.returncode == 3 and b"SG0367" in waits.stderr, waits.stderr
        assert f"127.0.0.1:{first.grpc} process {first.child.pid} ".encode() in waits.stderr, waits.stderr
        first.kill()
        second.serves()
        assert second.active() == 1


def test_an_orderly_end_hands_over_without_waiting_for_the_lease(registry, tmp_path):
    lease = 4 * PATIENCE
    a, b = (ControlPlane(tmp_path, name, registry, lease=lease) for name in "ab")
    with a.started():
        a.serves()
        with b.started():
            b.stands_by()
            a.child.send_signal(signal.SIGTERM)
            assert a.child.wait(20) == 0
            assert b.serves().issue().serial


def test_every_certificate_in_a_callers_hands_is_on_record_however_the_control_plane_is_killed(registry, tmp_path):
    held = set()
    for turn in range(6):
        plane = ControlPlane(tmp_path, f"turn-{turn}", registry)
        with plane.started(), concurrent.futures.ThreadPoolExecutor(4) as callers:
            plane.serves()
            calls = [callers.submit(until_it_ends, plane.grpc) for _ in range(4)]
            # Another moment each time, from "nothing issued yet" to "in the middle of many".
            time.sleep(0.02 + 0.15 * turn)
            plane.kill()
            for call in calls:
                held |= set(call.result())
        lost = held - {listed["serial"] for listed in plane.listed()}
        assert not lost, f"turn {turn}"
        assert plane.certs("verify").returncode == 0
    assert len(held) > 5


@pytest.mark.parametrize("table", ["lease", "record"])
def test_killed_before_a_record_is_written_nothing_was_issued_and_the_next_goes_on(registry, tmp_path, table):
    with ControlPlane(tmp_path, "a", registry).started() as a, concurrent.futures.ThreadPoolExecutor(1) as caller:
        a.serves()
        with registry.holding(table):
            call = caller.submit(a.issue)
            until(lambda: registry.waiting() > 0, "it waits in the middle of its transaction")
            a.kill()
            assert call.result().serial is None
        until(lambda: registry.said(OPEN) == "0", "the server has ended its transaction")
        assert a.listed("--id", "shop/payments") == []
    with ControlPlane(tmp_path, "b", registry).started() as b:
        assert b.serves().issue().serial in {listed["serial"] for listed in b.listed()}
        assert b.certs("verify").returncode == 0


def test_a_lease_that_is_lost_in_the_middle_of_an_issuance_ends_it(registry, tmp_path):
    with ControlPlane(tmp_path, "a", registry).started() as a, concurrent.futures.ThreadPoolExecutor(1) as caller:
        a.serves()
        before = registry.records()
        with registry.holding("lease") as say:
            call = caller.submit(a.issue)
            until(lambda: registry.waiting() > 0, "it waits for its lease")
            say("UPDATE sidegate.lease SET number = number + 1, holder = 'another', ends_at = clock_timestamp() + interval '9s'")
            say("COMMIT")
        answer = call.result()
        assert answer.serial is None and "SG0343" in answer.refusal, answer
        a.said("SG0343")
        assert registry.records() == before, "nothing is on record either"
        # Its state folder has missed what the other one did.
        assert "SG0344" in a.said("cannot start")


def test_one_that_was_stopped_for_a_while_finds_that_its_place_is_taken(registry, tmp_path):
    a, b = ControlPlane(tmp_path, "a", registry), ControlPlane(tmp_path, "b", registry)
    with a.started():
        a.serves()
        with b.started(), concurrent.futures.ThreadPoolExecutor(1) as caller:
            b.stands_by()
            a.child.send_signal(signal.SIGSTOP)
            b.serves()
            issued = b.issue().serial
            call = caller.submit(a.issue)
            a.child.send_signal(signal.SIGCONT)
            assert call.result().serial is None
            a.said("SG0343")
            a.stands_by()
            assert {listed["serial"] for listed in b.listed("--id", "shop/payments")} == {issued}
            b.kill()
            a.child.err.nth(2, lambda line: '"listener":"grpc"' in line)
            assert a.issue().serial
            assert a.certs("verify").returncode == 0


def test_a_state_folder_that_missed_something_is_refused(registry, tmp_path):
    with ControlPlane(tmp_path, "a", registry).started() as a:
        a.serves()
    shutil.copytree(tmp_path / "state", tmp_path / "copy")
    os.chmod(tmp_path / "copy", 0o700)
    with ControlPlane(tmp_path, "b", registry).started() as b:
        b.serves()
    for name, state in [("c", "../copy"), ("d", "../new")]:
        with ControlPlane(tmp_path, name, registry, state=state).started() as behind:
            assert "SG0344" in behind.said("cannot start"), state
    registry.said("DROP SCHEMA sidegate CASCADE")
    with ControlPlane(tmp_path, "e", registry).started() as other:
        assert "SG0340" in other.said("cannot start"), "a registry that is gone is not begun anew"


def in_the_folder(plane):
    """The same control plane with a registry of its own, and what then brings the database back."""
    shared = plane.file.read_text()
    plane.file.write_text("".join(line for line in shared.splitlines(True) if not line.startswith("registry:")))
    return lambda: plane.file.write_text(shared)


def filled(plane):
    """Some certificates and a refusal, in a registry of the folder; hands over what is on record and the check of it."""
    with plane.started():
        plane.serves()
        serials = [plane.issue().serial for _ in range(3)]
        assert issue(plane.grpc, b"wrong").refusal
    assert all(serials)
    whole = json.loads(plane.certs("verify", "-o", "json").stdout)
    assert whole["last"] >= 5
    return serials, {name: whole[name] for name in ("first", "last", "head", "sealed")}


def checked(plane):
    done = plane.certs("verify", "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_registry_moves_into_the_database_with_its_chain_and_goes_on_there(registry, tmp_path):
    a = ControlPlane(tmp_path, "a", registry)
    with_database = in_the_folder(a)
    serials, whole = filled(a)
    with_database()
    with a.started():
        assert "sidegate certs import" in a.said("cannot start")
    done = a.certs("import", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert whole.items() <= json.loads(done.stdout).items() and whole.items() <= checked(a).items()
    again = a.certs("import")
    assert again.returncode != 0 and b"nothing to move" in again.stderr

    # As if it had been interrupted: the folder has all of it, the database the beginning.
    (tmp_path / "state/registry.db.imported").rename(tmp_path / "state/registry.db")
    registry.said("DELETE FROM sidegate.record WHERE sequence > 2; DELETE FROM sidegate.checkpoint")
    assert a.certs("import").returncode == 0
    assert whole.items() <= checked(a).items()

    with a.started():
        serials.append(a.serves().issue().serial)
        listed = {record["serial"] for record in a.listed("--id", "shop/payments")}
        assert listed == set(serials)
        assert len(a.listed("--refused")) == 1
    assert checked(a)["last"] > whole["last"]


def test_what_is_not_whole_or_not_alone_is_not_moved(registry, tmp_path):
    a, b = ControlPlane(tmp_path, "a", registry), ControlPlane(tmp_path, "b", registry, state="../other")
    with_database = in_the_folder(a)
    _, whole = filled(a)
    with a.started():
        a.serves()
        with_database()
        refused = a.certs("import")
        assert refused.returncode != 0 and b"another control plane uses this state folder" in refused.stderr
    database = tmp_path / "state/registry.db"
    with sqlite3.connect(database) as records:
        records.execute("UPDATE record SET ends = ends + 1 WHERE sequence = 2")
    refused = a.certs("import")
    assert refused.returncode != 0 and b"SG0340" in refused.stderr, refused.stderr
    assert registry.said("SELECT to_regnamespace('sidegate') IS NULL") == "t", "nothing was begun"
    with sqlite3.connect(database) as records:
        records.execute("UPDATE record SET ends = ends - 1 WHERE sequence = 2")
    with b.started():
        b.serves()
        refused = a.certs("import")
        assert refused.returncode != 0 and b"SG0344" in refused.stderr, "the database is of another state folder"
    registry.said("DROP SCHEMA sidegate CASCADE")
    assert a.certs("import").returncode == 0
    assert checked(a)["last"] >= whole["last"]


def test_the_database_is_restarted_and_the_same_control_plane_goes_on(folder, tmp_path):
    home = folder / "restarted"
    home.mkdir()
    database = Database(home)
    with ControlPlane(tmp_path, "a", database).started() as a:
        a.stands_by()
        with database.started():
            first = a.serves().issue().serial
        answer = a.issue()
        assert answer.serial is None and "SG0342" in answer.refusal, answer
        until(lambda: a.active() == 0, "its turn may be over by now")
        with database.started():
            second = until(lambda: a.issue().serial, "it issues again")
            assert a.active() == 1
            assert {first, second} == {listed["serial"] for listed in a.listed("--id", "shop/payments")}
            assert a.certs("verify").returncode == 0
        done = a.certs("list")
        assert done.returncode != 0 and b"SG0342" in done.stderr


def test_a_full_database_issues_nothing_and_goes_on_once_there_is_room(folder, tmp_path):
    home = folder / "small"
    home.mkdir()
    text(MOUNT, "-t", "tmpfs", "-o", "size=96m", "tmpfs", home)
    try:
        database = Database(home)
        with database.started(), ControlPlane(tmp_path, "a", database).started() as a:
            held = [a.serves().issue().serial]
            assert held[0]
            database.said("ALTER TABLE sidegate.record ALTER COLUMN body SET STORAGE PLAIN")
            filler = home / "filler"
            fill(filler)
            refusal = until(lambda: refused(a, held), "the database is full")
            assert re.search("SG034[12]", refusal), refusal
            filler.unlink()
            held.append(until(lambda: a.issue().serial, "it issues again"))
            assert set(held) <= {listed["serial"] for listed in a.listed("--id", "shop/payments")}
            assert a.certs("verify").returncode == 0
    finally:
        text(UMOUNT, "-l", home)


def test_a_server_is_spoken_to_over_tls_and_only_under_its_own_name(folder, tmp_path):
    home = folder / "named"
    home.mkdir()
    database = Database(home)
    authority = certified(home, "localhost")
    with database.started():
        server = f"localhost:{database.port}"
        for name, where, bundle in [("a", f"127.0.0.1:{database.port}", authority), ("b", server, home / "data/PG_VERSION")]:
            more = f", passwordFile: {home}/password, trustBundle: {bundle}"
            with ControlPlane(tmp_path, name, database, server=where, more=more).started() as refused:
                assert "SG0342" in refused.stands_by().said("SG0342")
        more = f", passwordFile: {home}/password, trustBundle: {authority}"
        with ControlPlane(tmp_path, "c", database, server=server, more=more).started() as c:
            assert c.serves().issue().serial
            spoken = "SELECT bool_and(ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE application_name ~ 'sidegate'"
            assert database.said(spoken) == "t"


def test_a_password_that_others_may_read_is_not_sent(registry, tmp_path):
    password = tmp_path / "password"
    password.write_text("of nobody's business")
    password.chmod(0o644)
    with ControlPlane(tmp_path, "a", registry, more=f", passwordFile: {password}").started() as a:
        assert "0600" in a.stands_by().said("0600")


def now():
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def until_it_ends(port):
    """The serial numbers of what is issued there until it answers no more."""
    serials = []
    while serial := issue(port).serial:
        serials.append(serial)
    return serials


def serving(*planes):
    """The one that listens, if one does."""
    found = [plane for plane in planes if any('"listener":"grpc"' in line for line in plane.child.err.all())]
    return found[0] if found else None


def serving_first(*planes):
    return until(lambda: serving(*planes), "one of them serves")


def fill(path):
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass


def refused(plane, held):
    answer = plane.issue()
    if answer.serial:
        held.append(answer.serial)
    return answer.refusal


OPEN = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ 'sidegate'"
DAY = datetime.timedelta(days=1)
