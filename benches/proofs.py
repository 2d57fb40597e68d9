"""Before anything is timed: the inbound half answers the caller that its rules name, and neither one without a certificate
nor one whom they do not name. A pair that skipped this work would be cheaper and no peer.
"""

import socket
import ssl
import struct
import subprocess

from processes import PATIENCE


def prove(peer, kind, pair, folder):
    """Raises unless it is so. The floor reads nobody's name: there the stranger is answered too."""
    asks = _asks_tcp if kind == "tcp" else _asks_http
    answered = {
        caller: asks(pair.ports.inbound, peer.alpn(kind), kind, folder, caller) for caller in ("client", None, "stranger")
    }
    if answered != {"client": True, None: False, "stranger": not peer.judges}:
        raise RuntimeError(f"{peer.name}, {kind}: who was answered is not who should be: {answered}")


def _asks_http(port, alpn, kind, folder, caller):
    certificate = ["--cert", folder / f"{caller}.pem", "--key", folder / f"{caller}.key"] if caller else []
    message = ["-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", f"@{folder}/message"]
    done = subprocess.run(
        [
            *("curl", "-sS", "--max-time", "10", "--http2" if alpn == "h2" else "--http1.1"),
            *("--cacert", folder / "root.pem", *certificate, "--connect-to", f"server:443:127.0.0.1:{port}"),
            *(message if kind == "grpc" else []),
            *("-o", "/dev/null", "-w", "%{http_code} %header{grpc-status}", "https://server/"),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    # A gRPC refusal is a 200 whose status stands in the head; an answer has it in the trailers.
    return done.returncode == 0 and done.stdout.strip() == "200"


def _asks_tcp(port, alpn, _kind, folder, caller):
    context = ssl.create_default_context(cafile=folder / "root.pem")
    if alpn:
        context.set_alpn_protocols([alpn])
    if caller:
        context.load_cert_chain(folder / f"{caller}.pem", folder / f"{caller}.key")
    try:
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname="server") as stream,
        ):
            stream.sendall(struct.pack(">Q", 1))
            return stream.recv(1) == b"x"
    except OSError:
        return False
