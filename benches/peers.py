"""The proxies, each as a pair: a configuration for both halves, per kind of traffic.

http1    HTTP/1.1 to an HTTP/1.1 application
http2    the same application, its callers speak HTTP/2
grpc     HTTP/2 from end to end
tcp      opaque bytes

All of them: mutual TLS 1.3 between the halves, no resumption, one worker, no access log; the inbound half admits `client` and
nobody else, and the outbound half talks to `server` and nobody else. `Floor` alone does neither.
"""

import contextlib
import json
import pathlib
import shutil
import urllib.request
from typing import NamedTuple

from certificates import DOMAIN, spiffe_id
from processes import PROXIES, Process, free_port

KINDS = ("http1", "http2", "grpc", "tcp")
# Of which one admits the caller.
RULES = 1000


class Ports(NamedTuple):
    """Where one pair listens, and the application behind it."""

    outbound: int
    inbound: int
    app: int


class Pair(NamedTuple):
    """A running pair, outbound half first."""

    ports: Ports
    halves: list

    def cpu(self):
        return sum(half.cpu() for half in self.halves)

    def resident(self):
        return sum(half.resident() for half in self.halves)


class Peer:
    """What all of them share. `judges`: whether it admits by identity."""

    kinds = KINDS
    judges = True

    def alpn(self, kind):
        """What the halves agree to speak, for whoever wants to talk to the inbound half without the other."""
        return {"http1": "http/1.1", "tcp": None}.get(kind, "h2")

    def until_ready(self, half, port):
        half.until_listening(port)

    @contextlib.contextmanager
    def pair(self, kind, folder, app):
        """Both halves, ready, in a folder that holds the certificates."""
        ports = Ports(free_port(), free_port(), app[kind])
        halves = []
        try:
            for side in ("inbound", "outbound"):
                command = self.command(side, kind, ports, folder)
                log = folder / f"{self.name}-{kind}-{side}.log"
                half = Process(PROXIES, log, *command)
                halves.insert(0, half)
                self.until_ready(half, getattr(ports, side))
            yield Pair(ports, halves)
        finally:
            for half in halves:
                half.end()


class Sidegate(Peer):
    name = "sidegate"

    def __init__(self, programs, _venv):
        self._program = programs / "sidegate-proxy"
        self._admin = None

    def until_ready(self, half, port):
        """It listens before it has read its policies, and answers nobody until then."""
        half.until_listening(port)
        half.until(self._is_ready, f"port {port} does not become ready")

    def _is_ready(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self._admin}/readyz") as answer:
            return answer.status == 200
        return False

    def alpn(self, kind):
        return "sidegate-tcp/1" if kind == "tcp" else super().alpn(kind)

    def command(self, side, kind, ports, folder):
        mine, other = ("client", "server") if side == "outbound" else ("server", "client")
        protocol = {"http1": "http", "http2": "http", "grpc": "http2", "tcp": "tcp"}[kind]
        if side == "outbound":
            proof = f"identities: ['{spiffe_id(other)}'], endpoints: ['127.0.0.1:{ports.inbound}']"
            place = f"service: bench/server, {proof}"
        else:
            place = f"forward: '127.0.0.1:{ports.app}'"
        listen = getattr(ports, side)
        self._admin = free_port()
        lines = [
            f"trustDomain: {DOMAIN}",
            f"workload: {{namespace: bench, serviceAccount: {mine}, labels: {{app: {mine}}}}}",
            f"identity: {{files: {{certificate: {mine}.pem, privateKey: {mine}.key, trustBundle: root.pem}}}}",
            "policies: policies.yaml",
            "accessLog: off",
            "workers: 1",
            f"admin: {{listen: '127.0.0.1:{self._admin}'}}",
            f"{side}: [{{listen: '127.0.0.1:{listen}', protocol: {protocol}, {place}}}]",
        ]
        file = folder / f"sidegate-{kind}-{side}.yaml"
        file.write_text("\n".join(lines) + "\n")
        (folder / "policies.yaml").write_text(_policies(RULES))
        return [self._program, "--config", file]


def _policies(rules):
    """A mesh's worth of rules, ten to a policy: one of them is about this caller."""
    documents = []
    for first in range(0, rules, 10):
        accounts = [f"bench/other-{number}" for number in range(first, first + 10)]
        if first == rules // 20 * 10:
            accounts[5] = "bench/client"
        listed = ", ".join(
            f"{{name: r{number}, from: [{{serviceAccounts: [{account}]}}]}}" for number, account in enumerate(accounts)
        )
        documents.append(
            "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\n"
            f"metadata: {{name: p{first}}}\nspec: {{action: Allow, rules: [{listed}]}}\n"
        )
    return "---\n".join(documents)


class Floor(Peer):
    judges = False

    def __init__(self, programs, _venv, link):
        self._program = programs / "sidegate-bench"
        self._link = link
        self.name = f"floor-{link}"
        self.kinds = ("http1", "http2", "tcp") if link == "http1" else ("http1", "http2", "grpc")

    def alpn(self, kind):
        return {"tcp": None}.get(kind, "http/1.1" if self._link == "http1" else "h2")

    def command(self, side, kind, ports, folder):
        mine = "client" if side == "outbound" else "server"
        to = ports.inbound if side == "outbound" else ports.app
        return [
            *(self._program, "floor", "--side", side, "--link", "tcp" if kind == "tcp" else self._link),
            *("--listen", f"127.0.0.1:{getattr(ports, side)}", "--to", f"127.0.0.1:{to}"),
            *("--certificate", folder / f"{mine}.pem", "--key", folder / f"{mine}.key"),
            *("--roots", folder / "root.pem"),
        ]


class Haproxy(Peer):
    """Reads no URI names: the client is told by its common name."""

    def __init__(self, _programs, _venv, link):
        self._link = link
        self.name = f"haproxy-{link}"
        self.kinds = ("http1", "http2", "tcp") if link == "http1" else ("http1", "http2", "grpc")

    def alpn(self, kind):
        return {"tcp": None}.get(kind, "http/1.1" if self._link == "http1" else "h2")

    def command(self, side, kind, ports, folder):
        is_tcp = kind == "tcp"
        alpn = "" if is_tcp else f" alpn {self.alpn(kind)}"
        if side == "outbound":
            bind = " proto h2" if kind in ("http2", "grpc") else ""
            server = (
                f"127.0.0.1:{ports.inbound} ssl verify required ca-file root.pem crt client.both.pem"
                f" sni str(server) verifyhost server no-ssl-reuse{alpn}"
            )
            rule = ""
        else:
            bind = f" ssl crt server.both.pem ca-file root.pem verify required no-tls-tickets{alpn}"
            server = f"127.0.0.1:{ports.app}" + (" proto h2" if kind == "grpc" else "")
            what = "tcp-request content reject" if is_tcp else "http-request deny"
            rule = f"{what} unless {{ ssl_c_s_dn(CN) -m str client }}"
        lines = [
            "global",
            "  nbthread 1",
            "  maxconn 5000",
            "  tune.ssl.cachesize 0",
            "  ssl-default-bind-options ssl-min-ver TLSv1.3",
            "  ssl-default-server-options ssl-min-ver TLSv1.3",
            "defaults",
            f"  mode {'tcp' if is_tcp else 'http'}",
            "  timeout connect 5s",
            "  timeout client 60s",
            "  timeout server 60s",
            "  timeout http-keep-alive 60s",
            *([] if is_tcp else ["  http-reuse always"]),
            "frontend downstream",
            f"  bind 127.0.0.1:{getattr(ports, side)}{bind}",
            f"  {rule}",
            "  default_backend upstream",
            "backend upstream",
            f"  server upstream {server}",
        ]
        file = folder / f"{self.name}-{kind}-{side}.cfg"
        file.write_text("\n".join(lines) + "\n")
        return ["env", "-C", folder, "haproxy", "-db", "-f", file]


class Nginx(Peer):
    """Its upstream side speaks HTTP/1.1 alone."""

    name = "nginx"
    kinds = ("http1", "http2", "tcp")

    def __init__(self, _programs, _venv):
        pass

    def alpn(self, kind):
        return None if kind == "tcp" else "http/1.1"

    def command(self, side, kind, ports, folder):
        tls = (
            "ssl_certificate server.pem; ssl_certificate_key server.key; ssl_client_certificate root.pem;"
            " ssl_verify_client on; ssl_protocols TLSv1.3; ssl_session_cache off; ssl_session_tickets off;"
        )
        proxy_tls = (
            "proxy_ssl_certificate client.pem; proxy_ssl_certificate_key client.key; proxy_ssl_verify on;"
            " proxy_ssl_trusted_certificate root.pem; proxy_ssl_name server; proxy_ssl_server_name on;"
            " proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse off;"
        )
        block = self._stream if kind == "tcp" else self._http
        prefix = folder / f"nginx-{kind}-{side}"
        prefix.mkdir(exist_ok=True)
        file = prefix / "nginx.conf"
        text = block(side, kind, ports, tls, proxy_tls)
        for name in ("root.pem", "client.pem", "client.key", "server.pem", "server.key"):
            text = text.replace(f" {name};", f" {folder / name};")
        file.write_text(text)
        return ["nginx", "-e", "stderr", "-p", prefix, "-c", file]

    def _head(self, modules=""):
        return (
            f"{modules}daemon off; worker_processes 1; user root; pid nginx.pid; error_log stderr crit;\n"
            "events { worker_connections 8000; }\n"
        )

    def _http(self, side, kind, ports, tls, proxy_tls):
        version = " http2" if kind == "http2" else ""
        if side == "outbound":
            listen, upstream, scheme, more = version, ports.inbound, "https", proxy_tls
        else:
            refuse = 'if ($ssl_client_s_dn !~ "(^|,)CN=client(,|$)") { return 403; }'
            listen, upstream, scheme, more = " ssl", ports.app, "http", f"{tls} {refuse}"
        return self._head() + (
            "http { access_log off; keepalive_timeout 60s; keepalive_requests 1000000000;\n"
            "client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;"
            " uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n"
            f"upstream next {{ server 127.0.0.1:{upstream}; keepalive 300; keepalive_requests 1000000000; }}\n"
            f"server {{ listen 127.0.0.1:{getattr(ports, side)}{listen}; {more}\n"
            f"location / {{ proxy_pass {scheme}://next; proxy_http_version 1.1; proxy_set_header Connection '';"
            " proxy_set_header Host $host; } } }\n"
        )

    def _stream(self, side, kind, ports, tls, proxy_tls):
        module = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n"
        listen = f"listen 127.0.0.1:{getattr(ports, side)}"
        if side == "outbound":
            server = f"{listen}; proxy_ssl on; {proxy_tls} proxy_pass 127.0.0.1:{ports.inbound};"
            admitted = ""
        else:
            # Nobody else has an upstream.
            admitted = f"map $ssl_client_s_dn $next {{ ~(^|,)CN=client(,|$) 127.0.0.1:{ports.app}; }}\n"
            server = f"{listen} ssl; {tls} proxy_pass $next;"
        return self._head(module) + f"stream {{ {admitted} server {{ {server} }} }}\n"


class Envoy(Peer):
    """Its link is HTTP/1.1 for callers that speak it and HTTP/2 for the others, which is the cheaper one for each."""

    name = "envoy"

    def __init__(self, _programs, venv):
        found = shutil.which("envoy", path=venv / "bin")
        self._program = pathlib.Path(found) if found else next(venv.glob("lib/python*/site-packages/**/bin/envoy"))

    def command(self, side, kind, ports, folder):
        file = folder / f"envoy-{kind}-{side}.json"
        file.write_text(json.dumps(self._configuration(side, kind, ports, folder), indent=1))
        return [
            *(self._program, "-c", file, "--concurrency", "1", "--log-level", "error"),
            *("--disable-hot-restart", "--use-dynamic-base-id"),
        ]

    def _configuration(self, side, kind, ports, folder):
        is_outbound = side == "outbound"
        upstream = ports.inbound if is_outbound else ports.app
        cluster = {
            "name": "next",
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [{"max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000}]},
            "load_assignment": {
                "cluster_name": "next",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}],
            },
        }
        speaks_http2 = kind in ("http2", "grpc") if is_outbound else kind == "grpc"
        if kind != "tcp":
            version = "http2_protocol_options" if speaks_http2 else "http_protocol_options"
            cluster["typed_extension_protocol_options"] = {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": _type("upstreams.http.v3.HttpProtocolOptions"),
                    "explicit_http_config": {version: {}},
                }
            }
        chain = {"filters": self._filters(side, kind)}
        if is_outbound:
            context = {"@type": _type("transport_sockets.tls.v3.UpstreamTlsContext"), "max_session_keys": 0}
            context |= {"common_tls_context": _tls(folder, "client", "server", self.alpn(kind)), "sni": "server"}
            cluster["transport_socket"] = {"name": "tls", "typed_config": context}
        else:
            context = {"@type": _type("transport_sockets.tls.v3.DownstreamTlsContext")}
            context |= {"require_client_certificate": True, "disable_stateless_session_resumption": True}
            context |= {"common_tls_context": _tls(folder, "server", None, self.alpn(kind))}
            chain["transport_socket"] = {"name": "tls", "typed_config": context}
        listener = {"name": side, "address": _address(getattr(ports, side)), "filter_chains": [chain]}
        return {
            "static_resources": {"listeners": [listener], "clusters": [cluster]},
            "overload_manager": {
                "resource_monitors": [
                    {
                        "name": "envoy.resource_monitors.global_downstream_max_connections",
                        "typed_config": {
                            "@type": _type("resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"),
                            "max_active_downstream_connections": 20000,
                        },
                    }
                ]
            },
        }

    def _filters(self, side, kind):
        admits = {
            "rules": {
                "policies": {
                    "client": {
                        "permissions": [{"any": True}],
                        "principals": [{"authenticated": {"principal_name": {"exact": spiffe_id("client")}}}],
                    }
                }
            }
        }
        if kind == "tcp":
            carry = {"@type": _type("filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "p", "cluster": "next"}
            filters = [{"name": "tcp", "typed_config": carry}]
            if side == "inbound":
                rbac = {"@type": _type("filters.network.rbac.v3.RBAC"), "stat_prefix": "r", **admits}
                filters.insert(0, {"name": "rbac", "typed_config": rbac})
            return filters
        stages = [{"name": "router", "typed_config": {"@type": _type("filters.http.router.v3.Router")}}]
        if side == "inbound":
            rbac = {"@type": _type("filters.http.rbac.v3.RBAC"), **admits}
            stages.insert(0, {"name": "rbac", "typed_config": rbac})
        route = {"match": {"prefix": "/"}, "route": {"cluster": "next"}}
        http = {
            "@type": _type("filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "p",
            "codec_type": "AUTO",
            "generate_request_id": False,
            "http_filters": stages,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        }
        return [{"name": "http", "typed_config": http}]


def _address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _type(name):
    return f"type.googleapis.com/envoy.extensions.{name}"


def _tls(folder, mine, other, alpn):
    def file(name):
        return {"filename": str(folder / name)}

    validation = {"trusted_ca": file("root.pem")}
    if other is not None:
        validation["match_typed_subject_alt_names"] = [
            {"san_type": "URI", "matcher": {"exact": spiffe_id(other)}}
        ]
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": file(f"{mine}.pem"), "private_key": file(f"{mine}.key")}],
        "validation_context": validation,
        "alpn_protocols": [alpn] if alpn else [],
    }


def all_of_them(programs, venv):
    """In the order of the tables; Sidegate first."""
    return [
        Sidegate(programs, venv),
        Floor(programs, venv, "http1"),
        Floor(programs, venv, "http2"),
        Haproxy(programs, venv, "http1"),
        Haproxy(programs, venv, "http2"),
        Nginx(programs, venv),
        Envoy(programs, venv),
    ]
