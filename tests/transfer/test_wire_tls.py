"""Over TLS, to servers that one's own authority vouches for, and with the tokens of a registry's own kind."""

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
from tests.transfer.trips import CHUNK, hush

ME = base64.b64encode(b"me:secret").decode()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority.authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Iterator[servers.Registry]:
    """A registry that speaks TLS and nothing else."""
    if not servers.REGISTRY:
        pytest.skip("no docker-registry on this machine: apt-get install docker-registry")
    with servers.registry(tmp_path_factory.mktemp("tls"), tls=ours.tls) as running:
        yield running


def place(served: servers.Registry, name: str, ca: Path | None) -> addresses.Registry:
    found = addresses.parse(f"oci://127.0.0.1:{served.port}/{name}:1", ca=ca)
    assert isinstance(found, addresses.Registry)
    return found


def there_and_back(
    served: servers.Registry,
    tmp_path: Path,
    name: str,
    ca: Path | None,
    to: addresses.Registry | None = None,
    who: str = "",
) -> None:
    """Pushes a bundle of which one file takes several chunks, and pulls it."""
    folder, to = small.made(tmp_path / "in", 1, 600_000), to or place(served, name, ca)
    logins = Credentials({f"127.0.0.1:{served.port}": who} if who else {})
    sent = push.push(folder, read_manifest(folder), to, logins, ca=ca, chunk=CHUNK, say=hush)
    for where in (to, replace(to, digest=sent.oci_digest)):
        with sources.open_source(where, logins, ca) as source:
            landed = pull.pull(source, tmp_path / f"out {where.digest}", None, say=hush)
        assert small.contents(Path(landed.folder)) == small.contents(folder)


def test_a_registry_that_our_authority_vouches_for(locked: servers.Registry, tmp_path: Path, ours: Authority) -> None:
    assert place(locked, "tls", ours.ca).base.startswith("https://")
    there_and_back(locked, tmp_path, "tls", ours.ca)


def test_openssls_own_variable_names_an_authority_too(
    locked: servers.Registry, tmp_path: Path, ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSL_CERT_FILE needs no option."""
    to = addresses.Registry(f"https://127.0.0.1:{locked.port}", "variable", "1")
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.ca))
    there_and_back(locked, tmp_path, "variable", None, to)


def test_a_server_that_nobody_vouches_for_is_not_spoken_to(
    locked: servers.Registry, tmp_path: Path, ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = authority.authority(tmp_path, "others")
    to = addresses.Registry(f"https://127.0.0.1:{locked.port}", "none", "1")
    for ca in (None, others.ca):
        with (
            pytest.raises(BadInput, match=r"certificate of https://127\.0\.0\.1:\d+ is not trusted") as caught,
            sources.open_source(to, Credentials(), ca),
        ):
            pass
        assert "--ca FILE" in caught.value.remedy
    named = f"https://localhost:{locked.port}"  # the certificate is for 127.0.0.1 alone
    with pytest.raises(BadInput, match=r"certificate of https://localhost:\d+ is not trusted"):
        HttpClient(named, ca=ours.ca).ask("GET", "/v2/")


def test_a_file_that_holds_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for ca in (tmp_path / "none.pem", tmp_path / "empty.pem"):
        with pytest.raises(BadInput, match=r"(none|empty)\.pem holds no certificate"):
            HttpClient("https://127.0.0.1:1", ca=ca).ask("GET", "/")


def test_who_names_an_authority_means_tls_on_this_machine_too(ours: Authority) -> None:
    for text, plain, ca, base in (
        ("oci://127.0.0.1:5000/m:1", False, None, "http://127.0.0.1:5000"),
        ("oci://127.0.0.1:5000/m:1", False, ours.ca, "https://127.0.0.1:5000"),
        ("oci://registry.example.com/m:1", False, None, "https://registry.example.com"),
        ("oci://registry.example.com/m:1", True, None, "http://registry.example.com"),
    ):
        found = addresses.parse(text, plain_http=plain, ca=ca)
        assert isinstance(found, addresses.Registry)
        assert found.base == base
    with pytest.raises(BadInput, match="mutually exclusive"):
        addresses.parse("oci://127.0.0.1:5000/m:1", plain_http=True, ca=ours.ca)


def test_a_web_server_over_tls(tmp_path: Path, ours: Authority) -> None:
    folder = small.made(tmp_path / "in", 3)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ours.certificate, ours.key)
    with servers.web(tmp_path, context) as url:
        assert url.startswith("https://")
        with sources.open_source(addresses.parse(f"{url}in/"), Credentials(), ours.ca) as source:
            pull.pull(source, tmp_path / "out", None, say=hush)
    assert small.contents(tmp_path / "out") == small.contents(folder)


@pytest.fixture(scope="module")
def doors(ours: Authority) -> Iterator[Tokens]:
    with authority.tokens(ours) as running:
        yield running


def test_a_real_registry_that_wants_tokens_and_speaks_tls(tmp_path: Path, ours: Authority, doors: Tokens) -> None:
    if not servers.REGISTRY:
        pytest.skip("no docker-registry on this machine: apt-get install docker-registry")
    with servers.registry(tmp_path, doors.auth(ours.ca), ours.tls) as running:
        there_and_back(running, tmp_path, "models/m", ours.ca, who=ME)
        granted = {scope.rpartition(":")[::2] for scope, right in doors.asked if right}
        assert {(name, *sorted(actions.split(","))) for name, actions in granted} == {
            ("repository:models/m", "pull"),
            ("repository:models/m", "pull", "push"),
        }
        before = small.contents(tmp_path / "in")
        for who in (Credentials(), Credentials({f"127.0.0.1:{running.port}": base64.b64encode(b"me:wrong").decode()})):
            with (
                pytest.raises(BadInput, match=r"authentication failed|granted no token"),
                sources.open_source(place(running, "models/m", ours.ca), who, ours.ca),
            ):
                pass
        assert small.contents(tmp_path / "in") == before
