"""Redis: many small commands, pipelines, and messages that the server sends unasked."""

import hashlib

import pytest

from program import accepts, find, free_port, received_before_the_end, run, running, text

SERVER = find("redis-server", "redis-server")
CLI = find("redis-cli", "redis-tools")
BENCHMARK = find("redis-benchmark", "redis-tools")


@pytest.fixture(scope="module")
def server(ends, folder):
    port = free_port()
    home = folder / "redis"
    home.mkdir()
    child = ends.enter_context(running(SERVER, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", home))
    accepts(port, child)
    return port


@pytest.fixture(scope="module")
def pair(server, behind_sidecars):
    return behind_sidecars(server, "tcp")


def cli(port, *command, **options):
    return text(CLI, "-p", port, *command, **options).rstrip("\n")


@pytest.mark.parametrize("protocol", ["tcp", "auto"])
def test_commands_are_answered(server, behind_sidecars, protocol):
    port = behind_sidecars(server, protocol).port
    assert cli(port, "ping") == "PONG"
    assert cli(port, "set", "key", "value") == "OK"
    assert cli(port, "get", "key") == "value"


def test_a_value_of_eight_megabytes_comes_back_to_the_byte(pair):
    value = hashlib.shake_128(b"redis").hexdigest(4 << 20)
    assert cli(pair.port, "-x", "set", "large", input=value.encode()) == "OK"
    assert hashlib.sha256(cli(pair.port, "get", "large").encode()).digest() == hashlib.sha256(value.encode()).digest()


def test_a_subscriber_gets_each_message_as_it_is_published(pair):
    with running(CLI, "-p", pair.port, "subscribe", "news") as subscriber:
        subscriber.out.first(lambda line: line == "subscribe")
        for number in range(20):
            assert cli(pair.port, "publish", "news", f"message-{number}") == "1"
            subscriber.out.first(f"message-{number}".__eq__)


def test_redis_benchmark_runs_to_its_end_without_an_error(pair):
    counted = ["-t", "ping,set,get,lpush,lrange_100", "-n", 20_000, "-c", 50, "-P", 16, "--csv"]
    done = run(BENCHMARK, "-p", pair.port, *counted, patience=60)
    assert done.returncode == 0 and b"rror" not in done.stdout + done.stderr, done
    tests = [line.split(b",")[0] for line in done.stdout.splitlines()[1:]]
    assert b'"GET"' in tests and b'"SET"' in tests
    calls = cli(pair.port, "info", "commandstats")
    assert int(calls.split("cmdstat_set:calls=")[1].split(",")[0]) >= 20_000


def test_a_caller_who_is_not_permitted_does_not_reach_the_server(pair, server):
    stranger = pair.stranger()
    before = connections(server)
    done = run(CLI, "-p", stranger, "set", "forbidden", "1")
    assert b"OK" not in done.stdout
    assert received_before_the_end(stranger, b"PING\r\n") == b""
    assert connections(server) == before + 1, "the one that asks is the only new connection"
    assert cli(server, "exists", "forbidden") == "0"


def connections(port):
    return int(cli(port, "info", "stats").split("total_connections_received:")[1].split()[0])
