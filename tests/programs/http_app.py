"""An HTTP/1.1 application in this process that remembers what reached it."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from program import PATIENCE


class HttpApp(ThreadingHTTPServer):
    """`seen` holds one dictionary per request; `next_event` lets `/events` go on."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen = []
        self.next_event = threading.Semaphore(0)

    def handle_error(self, request, client_address):
        """A caller that leaves is no fault of the application; a test asks for what it wants to know."""

    @property
    def port(self):
        return self.server_address[1]


@contextmanager
def http_app():
    app = HttpApp()
    serving = threading.Thread(target=app.serve_forever, daemon=True)
    serving.start()
    try:
        yield app
    finally:
        app.shutdown()
        app.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_expect_100(self):
        self.server.seen.append({"expect": True})
        return super().handle_expect_100()

    def answer(self):
        path = self.path.split("?")[0]
        if path == "/early":
            # An answer before the body has been read, which it never is.
            self.close_connection = True
            return self.send(413, b"too large\n", {"Connection": "close"})
        body = self.read_body()
        seen = {
            "method": self.command,
            "target": self.path,
            "version": self.request_version,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "length": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        self.server.seen.append(seen)
        special = {"/trailers": self.trailers, "/events": self.events, "/old": self.old, "/empty": self.empty}
        return special.get(
            path, lambda: self.send(200, json.dumps(seen).encode(), {"Content-Type": "application/json"})
        )()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def send(self, status, body, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def trailers(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Trailer", "X-Checksum")
        self.end_headers()
        self.chunk(b"first ")
        self.chunk(b"second")
        self.wfile.write(b"0\r\nX-Checksum: 42\r\n\r\n")

    def events(self):
        """Each event is sent only after the test has seen the one before it."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(3):
            self.chunk(f"data: {number}\n\n".encode())
            if not self.server.next_event.acquire(timeout=PATIENCE):
                return
        self.wfile.write(b"0\r\n\r\n")

    def old(self):
        """As HTTP/1.0 servers answer: the end of the body is the end of the connection."""
        self.close_connection = True
        self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end\n")

    def empty(self):
        self.send_response(204)
        self.end_headers()

    def chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body
