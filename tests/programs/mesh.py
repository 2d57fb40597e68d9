"""A pair of real sidecars in file mode, and a caller whom no policy knows:

the test's program ──► orders' sidecar ──── mutual TLS ────► payments' sidecar ──► the application
                    └► stranger's sidecar ─ mutual TLS ──┘
"""

import datetime
import json
import os
import pathlib
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from program import running

DOMAIN = "shop.test"
ROOT = pathlib.Path(__file__).resolve().parents[2]
SIDEGATE = os.environ.get("SIDEGATE", ROOT / "target" / "debug" / "sidegate")

ORDERS_ALONE = """
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
"""

NOBODY = ORDERS_ALONE.replace("shop/orders", "shop/nobody")


def spiffe_id(account):
    return f"spiffe://{DOMAIN}/ns/shop/sa/{account}"


class Service(NamedTuple):
    """A service whose endpoint is the inbound port of `account`'s sidecar."""

    name: str
    account: str
    endpoint: int
    protocol: str

    def fields(self):
        proof = f"identities: ['{spiffe_id(self.account)}'], endpoints: ['127.0.0.1:{self.endpoint}']"
        return f"{proof}, protocol: {self.protocol}"


class Among(NamedTuple):
    """One outbound port of several services: `services` are told apart by the host, those of a `proxy` by what it is
    asked for."""

    how: str
    services: list


class Authority:
    """A CA of this run's own."""

    def __init__(self):
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "programs")])
        self._key_id = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = self._begin(self._key, self._name).add_extension(x509.BasicConstraints(True, None), True)
        builder = builder.add_extension(_key_usage(key_cert_sign=True, crl_sign=True), True)
        self.root = builder.add_extension(self._key_id, False).sign(self._key, hashes.SHA256())

    def bundle(self):
        return self.root.public_bytes(serialization.Encoding.PEM)

    def svid(self, account):
        """A certificate for `account`, and its key, both PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._begin(key, x509.Name([]))
        for extension, critical in [
            (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id(account))]), True),
            (x509.BasicConstraints(False, None), True),
            (_key_usage(digital_signature=True), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
            (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._key_id), False),
        ]:
            builder = builder.add_extension(extension, critical)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def _begin(self, key, name):
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=2))
        )


class Sidecar:
    """One running sidecar: `inbound` and `outbound` are its ports, in the order of its configuration."""

    def __init__(self, ends, folder, account, authority, policies, inbound=(), outbound=(), more=""):
        folder.mkdir()
        self.folder, self.account = folder, account
        certificate, key = authority.svid(account)
        for name, content in [("svid.pem", certificate), ("key.pem", key), ("bundle.pem", authority.bundle())]:
            self._write(name, content)
        self._write("policies.yaml", policies.encode())
        self._write("proxy.yaml", configuration(account, inbound, outbound, more).encode())
        self.process = ends.enter_context(running(SIDEGATE, "proxy", "--config", folder / "proxy.yaml"))
        self.inbound = [self._listening("inbound", number) for number in range(1, len(inbound) + 1)]
        self.outbound = [self._listening("outbound", number) for number in range(1, len(outbound) + 1)]
        self.admin = self._listening("admin", 1)
        self.applied(1)

    def accessed(self, **fields):
        """Waits for the line of the access log that says all of `fields`."""
        return self.process.out.first(lambda line: _says(line, fields))

    def access_log(self):
        return [json.loads(line) for line in self.process.out.all()]

    def put_in_force(self, policies, times):
        """Replaces the policies, by rename as tools do, and waits until they hold."""
        self._write(".policies.new", policies.encode())
        (self.folder / ".policies.new").rename(self.folder / "policies.yaml")
        self.applied(times)

    def renew(self, authority):
        """Gives it a new certificate and key, by rename as tools do."""
        for name, content in zip(["svid.pem", "key.pem"], authority.svid(self.account), strict=True):
            self._write(f".{name}.new", content)
            (self.folder / f".{name}.new").rename(self.folder / name)

    def applied(self, times):
        wanted = {"message": "identity and policies applied"}
        self.process.err.nth(times, lambda line: _says(line, wanted))

    def _listening(self, listener, number):
        line = self.process.err.nth(number, lambda line: _says(line, {"message": "listening", "listener": listener}))
        return int(line["address"].rsplit(":", 1)[1])

    def _write(self, name, content):
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)


class Pair:
    """An application's port behind its sidecar, reached by `orders`, who may, and by `stranger`, who may not."""

    def __init__(self, ends, folder, app_port, protocol, policies=ORDERS_ALONE, more=""):
        authority = Authority()
        self.payments = Sidecar(
            ends, folder / "payments", "payments", authority, policies, [(app_port, protocol)], more=more
        )
        outbound = [Service("payments", "payments", self.payments.inbound[0], protocol)]
        self.orders = Sidecar(ends, folder / "orders", "orders", authority, policies, outbound=outbound, more=more)
        self._start_stranger = lambda: Sidecar(
            ends, folder / "stranger", "stranger", authority, policies, outbound=outbound
        )
        self._stranger = None
        self.port = self.orders.outbound[0]
        self.url = f"http://127.0.0.1:{self.port}"

    def stranger(self):
        """The port on which a caller speaks whom no policy names."""
        self._stranger = self._stranger or self._start_stranger()
        return self._stranger.outbound[0]


def configuration(account, inbound, outbound, more):
    """The file of a sidecar; `inbound` are applications, `outbound` services and whose, each with its protocol."""
    lines = [
        f"trustDomain: {DOMAIN}",
        f"workload: {{namespace: shop, serviceAccount: {account}, labels: {{app: {account}}}}}",
        "identity: {files: {certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}}",
        "policies: policies.yaml",
        "admin: {listen: '127.0.0.1:0'}",
    ]
    if inbound:
        lines.append("inbound:")
    for port, protocol in inbound:
        lines.append(f"- {{listen: '127.0.0.1:0', forward: '127.0.0.1:{port}', protocol: {protocol}}}")
    if outbound:
        lines.append("outbound:")
    for port in outbound:
        if isinstance(port, Among):
            names = ", ".join(service.name for service in port.services)
            lines.append(f"- {{listen: '127.0.0.1:0', {port.how}: [{names}]}}")
        else:
            lines.append(f"- {{listen: '127.0.0.1:0', service: shop/{port.name}, {port.fields()}}}")
    described = {service for port in outbound if isinstance(port, Among) for service in port.services}
    if described:
        lines.append("services:")
    lines += [f"- {{name: {service.name}, {service.fields()}}}" for service in sorted(described)]
    return "\n".join([*lines, more, ""])


def _says(line, fields):
    try:
        said = json.loads(line)
    except json.JSONDecodeError:
        return None
    return said if all(said.get(name) == value for name, value in fields.items()) else None


def _key_usage(**true):
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    names += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{name: true.get(name, False) for name in names})
