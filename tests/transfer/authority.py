"""A test certificate authority that signs certificates for loopback servers, and a token server for a registry."""

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

ME = "Basic " + base64.b64encode(b"me:secret").decode()


@dataclass(frozen=True)
class Authority:
    """PEM files: the certificate of the authority, and the certificate and private key of a server on 127.0.0.1."""

    ca: Path
    certificate: Path
    key: Path

    @property
    def tls(self) -> str:
        """The TLS section of a registry's configuration."""
        return f"{{certificate: {self.certificate}, key: {self.key}}}"


def authority(folder: Path, name: str = "ours") -> Authority:
    """Creates an authority and a server certificate signed by it."""
    files = Authority(*(folder / f"{name}.{part}.pem" for part in ("ca", "certificate", "key")))
    root, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{name} authority")])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    root_certificate = _certificate_builder(issuer, issuer, root).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    root_certificate = root_certificate.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(root.public_key()), critical=False
    )
    server_certificate = _certificate_builder(subject, issuer, server).add_extension(loopback, critical=False)
    server_certificate = server_certificate.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False
    )
    files.ca.write_bytes(root_certificate.sign(root, hashes.SHA256()).public_bytes(Encoding.PEM))
    files.certificate.write_bytes(server_certificate.sign(root, hashes.SHA256()).public_bytes(Encoding.PEM))
    files.key.write_bytes(server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def _certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)


@dataclass(frozen=True)
class Tokens:
    """A token server: its URL, and the scope of each request with whether it was granted."""

    realm: str
    requests: list[tuple[str, bool]]

    def auth(self, ca: Path) -> str:
        """The auth section of the configuration of a registry that accepts these tokens."""
        return f"auth: {{token: {{realm: '{self.realm}', service: s, issuer: i, rootcertbundle: {ca}}}}}\n"


@contextmanager
def tokens(signer: Authority) -> Iterator[Tokens]:
    """A token server over TLS; it grants every scope to the user `me`."""
    requests: list[tuple[str, bool]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Logs nothing."""

        def do_GET(self) -> None:
            scope = parse_qs(urlsplit(self.path).query).get("scope", [""])[0]
            granted = self.headers.get("Authorization") == ME
            requests.append((scope, granted))
            raw = json.dumps({"token": _token(signer, scope)} if granted else {}).encode()
            self.send_response(200 if granted else 401)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(signer.certificate, signer.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Tokens(f"https://127.0.0.1:{server.server_address[1]}/token", requests)
        server.shutdown()
        thread.join()


def _token(signer: Authority, scope: str) -> str:
    """A JSON Web Token for docker-registry, signed with ES256, with the certificate in its header."""
    certificate = x509.load_pem_x509_certificate(signer.certificate.read_bytes())
    header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]}
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    now, access = int(time.time()), [{"type": kind, "name": name, "actions": actions.split(",")}] if scope else []
    claims = {"iss": "i", "sub": "me", "aud": "s", "iat": now, "nbf": now - 60, "exp": now + 300, "jti": "1"}
    signed = (
        f"{_base64url(json.dumps(header).encode())}.{_base64url(json.dumps({**claims, 'access': access}).encode())}"
    )
    key = _private(signer)
    r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _private(signer: Authority) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(signer.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
