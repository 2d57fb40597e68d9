"""grpcio: all four kinds of calls, and what goes beside the messages."""

import threading
import time
from concurrent import futures

import grpc
import pytest

from mesh import ORDERS_ALONE, spiffe_id

SERVICE = "shop.Ledger"
LARGE = bytes(range(256)) * (16 * 4096)
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
ONE_METHOD_DENIED = (
    ORDERS_ALONE
    + """---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-count}
spec:
  action: Deny
  rules: [{name: count, to: [{paths: [/shop.Ledger/Count]}]}]
"""
)


class Ledger(grpc.GenericRpcHandler):
    """Messages are plain bytes, so nothing has to be generated."""

    def __init__(self):
        self.peers, self.remaining = [], []
        self.cancelled, self.taken = threading.Event(), 0
        self.calls = 0

    def service(self, details):
        self.calls += 1
        self.peers.append(dict(details.invocation_metadata).get("x-sidegate-peer"))
        method = details.method.removeprefix(f"/{SERVICE}/")
        return {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Endless": grpc.unary_stream_rpc_method_handler(self.endless),
        }.get(method)

    def echo(self, message, context):
        sent = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-test")]
        context.send_initial_metadata([("x-initial", "first")])
        context.set_trailing_metadata([*sent, ("x-trailing", "last")])
        return message

    def count(self, message, context):
        for number in range(int(message)):
            yield str(number).encode()

    def sum(self, messages, context):
        return str(sum(int(message) for message in messages)).encode()

    def chat(self, messages, context):
        for message in messages:
            yield b"re: " + message

    def wait(self, message, context):
        self.remaining.append(context.time_remaining())
        context.add_callback(self.cancelled.set)
        self.cancelled.wait(20)
        return b""

    def fail(self, message, context):
        context.set_trailing_metadata([("grpc-status-details-bin", b"\x08\x05\x12\x07\xc3\xa4 gone")])
        context.abort(grpc.StatusCode.NOT_FOUND, "no such ledger: ä %41")

    def endless(self, message, context):
        while context.is_active():
            self.taken += 1
            yield LARGE[: 1 << 20]


@pytest.fixture(scope="module")
def ledger():
    return Ledger()


def serve_ledger(ledger, ends):
    """The port of a server."""
    server = grpc.server(futures.ThreadPoolExecutor(64), options=UNLIMITED)
    server.add_generic_rpc_handlers([ledger])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ends.callback(lambda: server.stop(None).wait(5))
    return port


@pytest.fixture(scope="module")
def pair(ledger, ends, behind_sidecars):
    return behind_sidecars(serve_ledger(ledger, ends), "http2", policies=ONE_METHOD_DENIED)


@pytest.fixture(scope="module")
def channel(pair, ends):
    return ends.enter_context(grpc.insecure_channel(f"127.0.0.1:{pair.port}", UNLIMITED))


@pytest.fixture(scope="module")
def stranger(pair, ends):
    return ends.enter_context(grpc.insecure_channel(f"127.0.0.1:{pair.stranger()}", UNLIMITED))


def name(method):
    return f"/{SERVICE}/{method}"


def test_one_message_for_one(channel, ledger):
    assert channel.unary_unary(name("Echo"))(b"hello", timeout=10) == b"hello"
    assert ledger.peers[-1] == spiffe_id("orders")


def test_many_messages_for_one(pair, ends, channel):
    allowed = channel.unary_stream(name("Endless"))(b"", timeout=20)
    assert [len(next(allowed)) for _ in range(3)] == [1 << 20] * 3
    allowed.cancel()


def test_one_message_for_many(channel):
    assert channel.stream_unary(name("Sum"))(iter(str(n).encode() for n in range(1000)), timeout=10) == b"499500"


def test_messages_both_ways_in_turns(channel):
    """Each message is sent only after the answer to the one before it: nothing is held back."""
    answered = threading.Semaphore(1)

    def messages():
        for number in range(50):
            assert answered.acquire(timeout=10)
            yield str(number).encode()

    answers = []
    for answer in channel.stream_stream(name("Chat"))(messages(), timeout=20):
        answers.append(answer)
        answered.release()
    assert answers == [f"re: {number}".encode() for number in range(50)]


def test_a_deadline_is_told_to_the_server_and_kept(channel, ledger):
    ledger.cancelled.clear()
    begun = time.monotonic()
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(name("Wait"))(b"", timeout=1)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.9 < time.monotonic() - begun < 5
    assert 0 < ledger.remaining[-1] <= 1.05
    assert ledger.cancelled.wait(5), "the server learns that nobody waits any more"


def test_a_cancellation_reaches_the_server(channel, ledger):
    ledger.cancelled.clear()
    waiting = len(ledger.remaining)
    call = channel.unary_unary(name("Wait")).future(b"", timeout=20)
    while len(ledger.remaining) == waiting:
        assert not call.done()
        time.sleep(0.01)
    call.cancel()
    assert ledger.cancelled.wait(5)


def test_metadata_passes_both_ways(channel):
    sent = [("x-test", "one"), ("x-test", "two"), ("x-test-bin", bytes(range(256)))]
    answer, call = channel.unary_unary(name("Echo")).with_call(b"", metadata=sent, timeout=10)
    assert ("x-initial", "first") in call.initial_metadata()
    trailing = [(key, value) for key, value in call.trailing_metadata() if key.startswith("x-t")]
    assert sorted(map(str, trailing)) == sorted(map(str, [*sent, ("x-trailing", "last")]))


def test_a_message_of_sixteen_megabytes_passes_both_ways(channel):
    assert channel.unary_unary(name("Echo"))(LARGE, timeout=30) == LARGE


def test_an_error_keeps_its_code_text_and_details(channel):
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(name("Fail"))(b"", timeout=10)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert error.value.details() == "no such ledger: ä %41"
    assert ("grpc-status-details-bin", b"\x08\x05\x12\x07\xc3\xa4 gone") in error.value.trailing_metadata()


def test_an_unknown_method_is_the_applications_to_refuse(channel):
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(name("Nothing"))(b"", timeout=10)
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_five_hundred_calls_at_once_all_succeed(channel):
    calls = [channel.unary_unary(name("Echo")).future(str(n).encode(), timeout=30) for n in range(500)]
    assert [call.result() for call in calls] == [str(n).encode() for n in range(500)]


def test_a_stream_that_nobody_reads_stops_the_server_and_nobody_else(channel, ledger):
    """Flow control from end to end: the server may send what fits into the windows on the way, and no more."""
    stream = channel.unary_stream(name("Endless"))(b"", timeout=60)
    assert len(next(stream)) == 1 << 20
    last = -1
    while last != ledger.taken:
        last = ledger.taken
        assert last < 64, "the server has sent 64 MiB to a client that reads nothing"
        time.sleep(0.3)
    assert channel.unary_unary(name("Echo"))(b"still", timeout=10) == b"still"
    stream.cancel()


@pytest.mark.parametrize("method", ["Echo", "Sum"])
def test_a_caller_who_is_not_permitted_gets_permission_denied(stranger, ledger, method):
    before = ledger.calls
    call = stranger.unary_unary(name(method)).future(b"", timeout=10)
    with pytest.raises(grpc.RpcError) as error:
        call.result()
    assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert error.value.details() == "denied"
    assert dict(call.initial_metadata() + call.trailing_metadata()).get("x-request-id")
    assert ledger.calls == before, "nothing reached the application"


def test_a_denied_method_is_refused_on_the_connection_that_carries_others(channel, ledger):
    before = ledger.calls
    with pytest.raises(grpc.RpcError) as error:
        list(channel.unary_stream(name("Count"))(b"3", timeout=10))
    assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert ledger.calls == before
    assert channel.unary_unary(name("Echo"))(b"after", timeout=10) == b"after"
