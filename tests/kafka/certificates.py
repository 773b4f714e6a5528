"""Certificates for one test: an authority of its own, a server's for 127.0.0.1, a client's."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: What the key of the client is locked with.
KEY_PASSWORD = "s3cret of the key"


class Certificates:
    """Files in PEM: `ca`, `server` (key and chain in one), `client` and `client_key`, whose password is above."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.server = folder / "ca.pem", folder / "server.pem"
        self.client, self.client_key = folder / "client.pem", folder / "client.key"
        authority, key = _signed("durable tests", None, None)
        self.ca.write_bytes(_pem(authority))
        server, server_key = _signed("127.0.0.1", authority, key)
        self.server.write_bytes(_key_pem(server_key) + _pem(server))
        client, client_key = _signed("client", authority, key)
        self.client.write_bytes(_pem(client))
        self.client_key.write_bytes(_key_pem(client_key, KEY_PASSWORD))


def _signed(
    name: str, authority: x509.Certificate | None, signing: ec.EllipticCurvePrivateKey | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if authority is None else authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if authority is None:
        builder = builder.add_extension(_USAGE, critical=True)
    else:
        assert signing is not None
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
        builder = builder.add_extension(names, critical=False).add_extension(issuer, critical=False)
    return builder.sign(signing or key, hashes.SHA256()), key


_USAGE = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey, password: str = "") -> bytes:
    locked: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        locked = serialization.BestAvailableEncryption(password.encode())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
