"""The `websockets` library at both ends."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

from mesh import NOBODY, spiffe_id
from program import until

MEGABYTE = bytes(range(256)) * 4096


class Chat:
    """Sends back what it gets; `close` ends the connection with a code of the application."""

    def __init__(self):
        self.peers, self.codes = [], []
        self.server = serve(self.serve, "127.0.0.1", 0, max_size=None, select_subprotocol=self.select)
        self.port = self.server.socket.getsockname()[1]
        self.serving = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.serving.start()

    @staticmethod
    def select(_, offered):
        return "chat.v1" if "chat.v1" in offered else None

    def serve(self, socket):
        self.peers.append(socket.request.headers.get("x-sidegate-peer"))
        try:
            for message in socket:
                if message == "close":
                    return socket.close(4001, "as asked")
                socket.send(message)
        except ConnectionClosed:
            pass
        finally:
            self.codes.append(socket.close_code)


@pytest.fixture(scope="module")
def chat(ends):
    chat = Chat()
    ends.callback(chat.server.shutdown)
    return chat


@pytest.fixture(scope="module")
def pair(chat, behind_sidecars):
    return behind_sidecars(chat.port, "http")


def open_socket(port, **more):
    return connect(f"ws://127.0.0.1:{port}/chat", max_size=None, open_timeout=10, **more)


def test_text_and_binary_messages_come_back(pair, chat):
    with open_socket(pair.port) as socket:
        for message in ["hello", "", "ä\u0000ö", b"\x00\xff", MEGABYTE]:
            socket.send(message)
            assert socket.recv(timeout=10) == message
    assert chat.peers[-1] == spiffe_id("orders")


def test_fragments_and_pings_pass(pair):
    with open_socket(pair.port) as socket:
        socket.send(["in ", "three ", "parts"])
        assert socket.recv(timeout=10) == "in three parts"
        assert socket.ping().wait(10), "the pong of the application"


def test_the_subprotocol_and_the_extension_are_agreed_on_end_to_end(pair):
    with open_socket(pair.port, subprotocols=["chat.v1"]) as socket:
        assert socket.subprotocol == "chat.v1"
        assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]


def test_the_close_code_of_either_side_reaches_the_other(pair, chat):
    with open_socket(pair.port) as socket:
        socket.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=10)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")
    with open_socket(pair.port) as socket:
        socket.close(4002, "bye")
    until(lambda: 4002 in chat.codes, "the application sees the code of the client")


def test_fifty_sockets_at_once_keep_their_messages_apart(pair):
    def talk(number):
        with open_socket(pair.port) as socket:
            for turn in range(20):
                socket.send(f"{number}/{turn}")
                assert socket.recv(timeout=20) == f"{number}/{turn}"
        return number

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(talk, range(50))) == list(range(50))


def test_a_caller_who_is_not_permitted_gets_403_and_no_socket(pair, chat):
    before = len(chat.peers)
    with pytest.raises(InvalidStatus) as refused:
        open_socket(pair.stranger())
    assert refused.value.response.status_code == 403
    assert refused.value.response.headers["x-request-id"]
    assert len(chat.peers) == before, "nothing reached the application"


def test_an_open_socket_is_cut_when_the_policy_changes(chat, behind_sidecars):
    pair = behind_sidecars(chat.port, "http")
    with open_socket(pair.port) as socket:
        socket.send("before")
        assert socket.recv(timeout=10) == "before"
        pair.payments.put_in_force(NOBODY, times=2)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
        assert not isinstance(closed.value, ConnectionClosedOK)
    pair.payments.accessed(path="/chat", code="SG0207")
