"""nginx as an application: files, ranges, compression, HTTP/2 in plaintext, TLS of its own."""

import hashlib
from contextlib import contextmanager

from program import accepts, find, free_port, running, text

CONFIGURATION = """
daemon off;
user root;
worker_processes 2;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  types {{ text/plain txt; application/octet-stream bin; }}
  gzip on;
  gzip_types text/plain;
  server {{
    listen 127.0.0.1:{http1} backlog=1024;
    root {folder}/files;
    location /echo {{ client_max_body_size 64m; proxy_pass http://127.0.0.1:{http1}/small.txt; }}
  }}
  server {{
    listen 127.0.0.1:{http2} http2 backlog=1024;
    keepalive_requests 1000000;
    root {folder}/files;
  }}
  # Each connection ends after 50 requests: HTTP/1.1 says so in the last answer, HTTP/2 with GOAWAY.
  server {{
    listen 127.0.0.1:{parting1} backlog=1024;
    listen 127.0.0.1:{parting2} http2 backlog=1024;
    keepalive_requests 50;
    root {folder}/files;
    location /charge {{ return 200; }}
  }}
  server {{
    listen 127.0.0.1:{tls} ssl;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    root {folder}/files;
  }}
}}
"""

SMALL = b"hello\n"
TEXT = b"the same line again and again\n" * 10_000
LARGE = hashlib.shake_128(b"large").digest(20 << 20)


class Nginx:
    """Its ports, by what is spoken on them."""

    def __init__(self, folder):
        self.folder = folder
        self.http1, self.http2, self.tls = free_port(), free_port(), free_port()
        # The same, whose connections end after 50 requests.
        self.parting1, self.parting2 = free_port(), free_port()

    def requests(self):
        """How many requests have reached it."""
        return len((self.folder / "access.log").read_bytes().splitlines())


@contextmanager
def nginx(folder):
    folder.mkdir()
    files = folder / "files"
    files.mkdir()
    for name, content in [("small.txt", SMALL), ("text.txt", TEXT), ("large.bin", LARGE)]:
        (files / name).write_bytes(content)
    own_certificate(folder, "localhost", "secure")
    server = Nginx(folder)
    ports = {"http1": server.http1, "http2": server.http2, "tls": server.tls}
    ports |= {"parting1": server.parting1, "parting2": server.parting2}
    (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder, **ports))
    program = find("nginx", "nginx-light")
    with running(program, "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf") as child:
        accepts(server.tls, child)
        yield server


def own_certificate(folder, *names):
    """`certificate.pem` and `key.pem` of an application that has TLS of its own."""
    text(
        *(find("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *(
            "-days",
            "1",
            "-subj",
            f"/CN={names[0]}",
            "-addext",
            "subjectAltName=" + ",".join(f"DNS:{name}" for name in names),
        ),
        *("-keyout", folder / "key.pem", "-out", folder / "certificate.pem"),
    )
