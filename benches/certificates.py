"""One CA for all pairs of a run. Each certificate says who it is in every way that one of the proxies can read: a SPIFFE ID
(Sidegate, Envoy), a DNS name (what haproxy and nginx verify of a server) and a common name (what their rules ask of a client).
"""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DOMAIN = "bench.test"


def spiffe_id(account):
    return f"spiffe://{DOMAIN}/ns/bench/sa/{account}"


def write(folder, accounts):
    """`root.pem`, and for each account `<account>.pem`, `<account>.key` and, for haproxy, both in `<account>.both.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benches")])
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    root = _certificate(
        key.public_key(),
        name,
        name,
        [
            (x509.BasicConstraints(True, None), True),
            (_key_usage(key_cert_sign=True, crl_sign=True), True),
            (key_id, False),
        ],
    ).sign(key, hashes.SHA256())
    (folder / "root.pem").write_bytes(_pem(root))
    for account in accounts:
        _leaf(folder, account, key, name, key_id)


def _leaf(folder, account, ca, issuer, key_id):
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.UniformResourceIdentifier(spiffe_id(account)), x509.DNSName(account)]
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = _certificate(
        key.public_key(),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, account)]),
        issuer,
        [
            (x509.SubjectAlternativeName(names), False),
            (x509.BasicConstraints(False, None), True),
            (_key_usage(digital_signature=True), True),
            (x509.ExtendedKeyUsage(both), False),
            (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), False),
        ],
    ).sign(ca, hashes.SHA256())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{account}.pem").write_bytes(_pem(certificate))
    for name, content in [(f"{account}.key", secret), (f"{account}.both.pem", _pem(certificate) + secret)]:
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)


def _certificate(public_key, subject, issuer, extensions):
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=12))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_usage(**true):
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    names += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{name: true.get(name, False) for name in names})
