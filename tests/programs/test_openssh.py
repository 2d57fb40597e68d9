"""OpenSSH: both sides speak at once, and neither waits for the other."""

import hashlib
import pathlib

import pytest

from program import accepts, find, free_port, received_before_the_end, run, running, text

SERVER = find("sshd", "openssh-server")
CLIENT = find("ssh", "openssh-client")
COPY = find("scp", "openssh-client")
KEYGEN = find("ssh-keygen", "openssh-client")
CONTENT = hashlib.shake_128(b"openssh").digest(16 << 20)


@pytest.fixture(scope="module")
def home(folder):
    home = folder / "openssh"
    home.mkdir(mode=0o700)
    for key in ["host", "client"]:
        text(KEYGEN, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", home / key)
    (home / "authorized").write_bytes((home / "client.pub").read_bytes())
    return home


@pytest.fixture(scope="module")
def server(ends, home):
    port = free_port()
    lines = [
        *(f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {home}/host", f"PidFile {home}/pid"),
        *(f"AuthorizedKeysFile {home}/authorized", "StrictModes no", "UsePAM no", "PermitRootLogin prohibit-password"),
        *("PasswordAuthentication no", "Subsystem sftp internal-sftp", "LogLevel VERBOSE"),
    ]
    (home / "sshd_config").write_text("\n".join(lines) + "\n")
    # sshd insists on this folder.
    pathlib.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    child = ends.enter_context(running(SERVER, "-D", "-e", "-f", home / "sshd_config"))
    accepts(port, child)
    child.port = port
    return child


@pytest.fixture(scope="module")
def pair(server, behind_sidecars):
    return behind_sidecars(server.port, "tcp")


def options(home, port):
    known = home / f"known-{port}"
    known.write_text(f"[127.0.0.1]:{port} {(home / 'host.pub').read_text()}")
    settings = [f"UserKnownHostsFile={known}", "StrictHostKeyChecking=yes", "BatchMode=yes", "ConnectTimeout=10"]
    return ["-F", "none", "-i", home / "client", *(part for setting in settings for part in ("-o", setting))]


def ssh(home, port, *command, **more):
    return run(CLIENT, *options(home, port), "-p", port, "root@127.0.0.1", *command, **more)


@pytest.mark.parametrize("protocol", ["tcp", "auto"])
def test_a_command_runs_and_its_exit_code_comes_back(server, home, behind_sidecars, protocol):
    """The host key that the client knows is sshd's own: nobody in between ended the session."""
    port = behind_sidecars(server.port, protocol).port
    done = ssh(home, port, "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_the_end_of_the_input_is_seen_and_the_answer_still_arrives(pair, home):
    done = ssh(home, pair.port, "sha256sum", input=CONTENT)
    assert done.stdout.split()[0].decode() == hashlib.sha256(CONTENT).hexdigest()


def test_a_copied_file_is_the_same_there_and_back(pair, home):
    (home / "sent").write_bytes(CONTENT)
    copy = [COPY, *options(home, pair.port), "-P", pair.port]
    text(*copy, home / "sent", f"root@127.0.0.1:{home}/there")
    text(*copy, f"root@127.0.0.1:{home}/there", home / "back")
    digests = {hashlib.sha256((home / name).read_bytes()).hexdigest() for name in ["sent", "there", "back"]}
    assert len(digests) == 1


def test_a_caller_who_is_not_permitted_does_not_even_get_the_version(pair, server, home):
    stranger = pair.stranger()
    before = len([line for line in server.err.all() if line.startswith("Connection from")])
    assert ssh(home, stranger, "true").returncode == 255
    assert received_before_the_end(stranger) == b""
    assert len([line for line in server.err.all() if line.startswith("Connection from")]) == before
