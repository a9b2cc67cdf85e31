"""The bus's own certificate authority: it signs the certificates of the broker, of the city and of nodes that use mutual TLS.

Kafka keeps no list of revoked certificates. So each certificate has a name of its own (see infra/operate/nodes.py);
to end a certificate early, all rights are taken from its name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import SecretStr

from schemas.errors import StateError
from schemas.ports.files import write_whole

CA_DAYS = 3650
DAYS = 397  # of every other certificate
RENEW = timedelta(days=30)  # when less is left, the broker's and the city's are renewed

_CLIENT, _SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


class Authority:
    """The authority of one state folder: made on first use, and kept from then on."""

    def __init__(self, folder: Path) -> None:
        self._secret = folder / "authority.pem"  # key and certificate in one file, so that neither is lost alone
        if not self._secret.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            key = ec.generate_private_key(ec.SECP256R1())
            name = _name(f"Suibus authority {x509.random_serial_number():x}"[:40])
            builder = _builder(name, name, key, CA_DAYS)
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            builder = builder.add_extension(_usage(signs=True), critical=True)
            text = _key_pem(key) + _pem(builder.sign(key, hashes.SHA256()))
            write_whole(self._secret, text, secret=True)
        try:
            kept = self._secret.read_bytes()
            loaded = serialization.load_pem_private_key(kept, None)
            self._certificate = x509.load_pem_x509_certificate(kept)
        except ValueError as error:
            raise StateError(
                f"{self._secret} cannot be read ({error}). Restore it from a backup; without it every node needs "
                "a new file (suibus node rotate).",
                f"{self._secret} 无法读取（{error}）。请从备份恢复；否则每个节点都需要新的文件（suibus node rotate）。",
            ) from error
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self._secret}: not the key of an elliptic curve")
        self._key = loaded

    @property
    def certificate(self) -> str:
        """The authority's certificate as PEM, which the others trust. It is not secret."""
        return _pem(self._certificate)

    def issue(self, name: str, *, hosts: Sequence[str] = (), days: int = DAYS) -> tuple[str, SecretStr]:
        """A certificate for `name`, and its private key, both as PEM.

        It is for clients; with `hosts` (names or addresses) it is for the broker too. So a node's certificate cannot be used to
        impersonate the broker.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self._certificate.subject, key, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=False), critical=True)
        purposes = [_CLIENT, _SERVER] if hosts else [_CLIENT]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
        return _pem(builder.sign(self._key, hashes.SHA256())), SecretStr(_key_pem(key))

    def issued(self, path: Path, hosts: Sequence[str] = ()) -> bool:
        """Whether the first certificate in a file is signed by this authority, is valid for another 30 days, and names these hosts."""
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
            found.verify_directly_issued_by(self._certificate)
            named = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value if hosts else ()
        except Exception:  # whatever is wrong with it, a new one is made
            return False
        return list(named) == [_host(h) for h in hosts] and found.not_valid_after_utc > datetime.now(UTC) + RENEW


def expires(certificate: str) -> datetime:
    """When the first certificate of a PEM text ends."""
    return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    ends = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, ends) - timedelta(days=1))  # a node's clock may be slow
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(  # PKCS 8, the only format that Kafka reads
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
