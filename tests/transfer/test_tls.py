"""TLS to servers with certificates of a private authority, and the tokens of docker-registry."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploytool.bundle.manifest import read_manifest
from deploytool.errors import BadInput
from deploytool.transfer import addresses, pull, push, sources
from deploytool.transfer.auth import Credentials
from deploytool.transfer.http import HttpClient
from tests.transfer import authority, servers, small
from tests.transfer.authority import Authority, Tokens
from tests.transfer.trips import CHUNK, ignore

ME = base64.b64encode(b"me:secret").decode()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority.authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls_registry(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Iterator[servers.Registry]:
    """A registry that accepts TLS connections only."""
    if not servers.REGISTRY:
        pytest.skip("no docker-registry on this machine: apt-get install docker-registry")
    with servers.registry(tmp_path_factory.mktemp("tls"), tls=ours.tls) as running:
        yield running


def registry_address(served: servers.Registry, name: str, ca: Path | None) -> addresses.Registry:
    address = addresses.parse(f"oci://127.0.0.1:{served.port}/{name}:1", ca=ca)
    assert isinstance(address, addresses.Registry)
    return address


def push_and_pull(
    served: servers.Registry,
    tmp_path: Path,
    name: str,
    ca: Path | None,
    to: addresses.Registry | None = None,
    login: str = "",
) -> None:
    """Pushes a bundle with a file of several chunks, and pulls it."""
    folder, to = small.make_bundle(tmp_path / "in", 1, 600_000), to or registry_address(served, name, ca)
    logins = Credentials({f"127.0.0.1:{served.port}": login} if login else {})
    sent = push.push(folder, read_manifest(folder), to, logins, ca=ca, chunk=CHUNK, say=ignore)
    for source_address in (to, replace(to, digest=sent.oci_digest)):
        with sources.open_source(source_address, logins, ca) as source:
            result = pull.pull(source, tmp_path / f"out {source_address.digest}", None, say=ignore)
        assert small.contents(Path(result.folder)) == small.contents(folder)


def test_a_registry_with_a_trusted_certificate(tls_registry: servers.Registry, tmp_path: Path, ours: Authority) -> None:
    assert registry_address(tls_registry, "tls", ours.ca).base.startswith("https://")
    push_and_pull(tls_registry, tmp_path, "tls", ours.ca)


def test_the_variable_of_openssl_names_an_authority(
    tls_registry: servers.Registry, tmp_path: Path, ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = addresses.Registry(f"https://127.0.0.1:{tls_registry.port}", "variable", "1")
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.ca))
    push_and_pull(tls_registry, tmp_path, "variable", None, to)


def test_a_server_with_an_untrusted_certificate_is_refused(
    tls_registry: servers.Registry, tmp_path: Path, ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = authority.authority(tmp_path, "others")
    to = addresses.Registry(f"https://127.0.0.1:{tls_registry.port}", "none", "1")
    for ca in (None, others.ca):
        with (
            pytest.raises(BadInput, match=r"certificate of https://127\.0\.0\.1:\d+ is not trusted") as caught,
            sources.open_source(to, Credentials(), ca),
        ):
            pass
        assert "--ca FILE" in caught.value.remedy
    url = f"https://localhost:{tls_registry.port}"  # the certificate is for 127.0.0.1 only
    with pytest.raises(BadInput, match=r"certificate of https://localhost:\d+ is not trusted"):
        HttpClient(url, ca=ours.ca).ask("GET", "/v2/")


def test_a_file_without_a_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for ca in (tmp_path / "none.pem", tmp_path / "empty.pem"):
        with pytest.raises(BadInput, match=r"(none|empty)\.pem holds no certificate"):
            HttpClient("https://127.0.0.1:1", ca=ca).ask("GET", "/")


def test_an_authority_implies_tls_also_for_loopback(ours: Authority) -> None:
    for text, plain, ca, base in (
        ("oci://127.0.0.1:5000/m:1", False, None, "http://127.0.0.1:5000"),
        ("oci://127.0.0.1:5000/m:1", False, ours.ca, "https://127.0.0.1:5000"),
        ("oci://registry.example.com/m:1", False, None, "https://registry.example.com"),
        ("oci://registry.example.com/m:1", True, None, "http://registry.example.com"),
    ):
        address = addresses.parse(text, plain_http=plain, ca=ca)
        assert isinstance(address, addresses.Registry)
        assert address.base == base
    with pytest.raises(BadInput, match="mutually exclusive"):
        addresses.parse("oci://127.0.0.1:5000/m:1", plain_http=True, ca=ours.ca)


def test_a_web_server_over_tls(tmp_path: Path, ours: Authority) -> None:
    folder = small.make_bundle(tmp_path / "in", 3)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ours.certificate, ours.key)
    with servers.web(tmp_path, context) as url:
        assert url.startswith("https://")
        with sources.open_source(addresses.parse(f"{url}in/"), Credentials(), ours.ca) as source:
            pull.pull(source, tmp_path / "out", None, say=ignore)
    assert small.contents(tmp_path / "out") == small.contents(folder)


@pytest.fixture(scope="module")
def token_server(ours: Authority) -> Iterator[Tokens]:
    with authority.tokens(ours) as running:
        yield running


def test_a_registry_that_requires_tokens_over_tls(tmp_path: Path, ours: Authority, token_server: Tokens) -> None:
    if not servers.REGISTRY:
        pytest.skip("no docker-registry on this machine: apt-get install docker-registry")
    with servers.registry(tmp_path, token_server.auth(ours.ca), ours.tls) as running:
        push_and_pull(running, tmp_path, "models/m", ours.ca, login=ME)
        granted = {scope.rpartition(":")[::2] for scope, is_granted in token_server.requests if is_granted}
        assert {(name, *sorted(actions.split(","))) for name, actions in granted} == {
            ("repository:models/m", "pull"),
            ("repository:models/m", "pull", "push"),
        }
        before = small.contents(tmp_path / "in")
        for login in (
            Credentials(),
            Credentials({f"127.0.0.1:{running.port}": base64.b64encode(b"me:wrong").decode()}),
        ):
            with (
                pytest.raises(BadInput, match=r"authentication failed|granted no token"),
                sources.open_source(registry_address(running, "models/m", ours.ca), login, ours.ca),
            ):
                pass
        assert small.contents(tmp_path / "in") == before
