"""Authentication, redirects, proxies, timeouts and invalid responses of HTTP servers."""

from __future__ import annotations

import base64
import http.server
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import pytest

from deploytool.bundle.manifest import read_manifest
from deploytool.errors import BadInput, DeployError, Refused, Unreachable
from deploytool.transfer import addresses, pull, push, sources
from deploytool.transfer import auth as transfer_auth
from deploytool.transfer import http as transfer_http
from deploytool.transfer.auth import Credentials
from deploytool.transfer.http import HttpClient
from tests.transfer import servers, small

ME = base64.b64encode(b"me:secret").decode()


@contextmanager
def answering(answer: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_registry_with_a_password(tmp_path: Path) -> None:
    if not servers.REGISTRY:
        pytest.skip("no docker-registry on this machine: apt-get install docker-registry")
    (tmp_path / "htpasswd").write_text(f"{servers.LOGIN}\n")
    auth = f"auth: {{htpasswd: {{realm: r, path: {tmp_path / 'htpasswd'}}}}}\n"
    folder = small.make_bundle(tmp_path / "in", 1)
    with servers.registry(tmp_path, auth) as running:
        host = f"127.0.0.1:{running.port}"
        address = addresses.parse(f"oci://{host}/locked:1")
        assert isinstance(address, addresses.Registry)
        config = tmp_path / "config.json"
        for logins, is_valid in (({}, False), ({host: "me:wrong"}, False), ({host: "me:secret"}, True)):
            auths = {name: {"auth": base64.b64encode(who.encode()).decode()} for name, who in logins.items()}
            config.write_text(json.dumps({"auths": auths}))
            if not is_valid:
                with pytest.raises(BadInput, match=r"authentication failed \(401"):
                    push.push(folder, read_manifest(folder), address, transfer_auth.read_config(config), say=print)
                with (
                    pytest.raises(BadInput, match=r"authentication failed \(401"),
                    sources.open_source(address, transfer_auth.read_config(config)),
                ):
                    pass
        push.push(
            folder, read_manifest(folder), address, transfer_auth.read_config(config), chunk=200, say=lambda line: None
        )
        with sources.open_source(address, transfer_auth.read_config(config)) as source:
            pull.pull(source, tmp_path / "out", None, say=lambda line: None)
    assert small.contents(tmp_path / "out") == small.contents(folder)


def test_a_token_is_fetched_once_per_scope() -> None:
    with servers.tokens("me", "secret") as (base, requests):
        client = HttpClient(base, ME)
        assert [client.ask("GET", "/v2/a").body for _ in range(2)] == [b"welcome"] * 2
        assert requests == ["/v2/a", "/token?service=s&scope=repository%3Aa%3Apull", "/v2/a", "/v2/a"]
        client.close()
        for who in (None, base64.b64encode(b"me:wrong").decode()):
            with pytest.raises(BadInput, match=r"authentication failed|granted no token"):
                HttpClient(base, who).ask("GET", "/v2/a")


def test_a_password_is_not_sent_to_the_target_of_a_redirect() -> None:
    seen: list[str | None] = []

    class Target(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: object) -> None:
            """Logs nothing."""

        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

    with answering(Target) as target:

        class Redirecting(Target):
            def do_GET(self) -> None:
                seen.append(self.headers.get("Authorization"))
                self.send_response(307)
                self.send_header("Location", f"{target}/blob")
                self.send_header("Content-Length", "0")
                self.end_headers()

        with answering(Redirecting) as base:
            client = HttpClient(base, authorization=f"Basic {ME}")
            assert b"".join(client.stream("/blob", 0, 5)) == b"hello"
            client.close()
    assert seen == [f"Basic {ME}", None]


@pytest.mark.parametrize(
    ("status", "headers", "body", "problem", "kind"),
    [
        (200, {"Content-Length": "4"}, b"hell", "has another size", Refused),
        (200, {"Content-Length": "6"}, b"hello!", "has another size", Refused),
        (200, {}, b"hell", "was interrupted", Unreachable),
        (206, {"Content-Range": "bytes 1-4/5", "Content-Length": "4"}, b"ello", "another range", Refused),
        (206, {"Content-Range": "bytes 2-4/9", "Content-Length": "3"}, b"llo", "has another size", Refused),
        (416, {"Content-Range": "bytes */2", "Content-Length": "0"}, b"", "has another size", Refused),
        (416, {"Content-Length": "0"}, b"", "has another size", Refused),
        (403, {"Content-Length": "0"}, b"", r"authentication failed \(403", BadInput),
        (404, {"Content-Length": "0"}, b"", "does not exist", Refused),
        (429, {"Content-Length": "0"}, b"", "answers 429", Unreachable),
        (500, {"Content-Length": "0"}, b"", "answers 500", Unreachable),
        (302, {"Location": "/again", "Content-Length": "0"}, b"", "redirects more than", Unreachable),
        (302, {"Location": "ftp://x/y", "Content-Length": "0"}, b"", "less secure", Unreachable),
        (302, {"Location": "file:///etc/passwd", "Content-Length": "0"}, b"", "less secure", Unreachable),
    ],
)
def test_invalid_responses_are_refused(
    status: int, headers: dict[str, str], body: bytes, problem: str, kind: type[Exception]
) -> None:
    class Fixed(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Logs nothing."""

        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    with answering(Fixed) as base:
        client = HttpClient(base)
        with pytest.raises(kind, match=problem):
            b"".join(client.stream("/x", 2, 5))
        client.close()


def test_no_more_is_taken_than_was_asked_for() -> None:
    class Fixed(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Logs nothing."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello, and more")

    with answering(Fixed) as base:
        assert b"".join(HttpClient(base).stream("/x", 2, 5)) == b"llo"


def test_a_response_that_is_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b" " * (transfer_http.LONGEST + 1))
    with servers.web(tmp_path) as url, pytest.raises(Refused, match="a response of more than"):
        HttpClient(url).ask("GET", f"{url}manifest.json")


def test_logins_are_read_from_the_configuration_of_docker(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert transfer_auth.read_config(path) == Credentials()
    entries = {"https://one/v1/": {"auth": ME}, "two:5000": {"username": "me", "password": "secret"}, "three": {}}
    path.write_text(json.dumps({"auths": entries}))
    credentials = transfer_auth.read_config(path)
    assert credentials == Credentials({"one": ME, "two:5000": ME})
    assert credentials.of("https://two:5000/x") == ME
    assert credentials.of("https://two:5001") is None
    for invalid in ("[]", "{", '{"auths": 5}', '{"credsStore": 5}', '{"credHelpers": {"a": 1}}'):
        path.write_text(invalid)
        with pytest.raises(BadInput, match=r"is not a config\.json"):
            transfer_auth.read_config(path)


HELPER = """#!/bin/sh
[ "$1" = get ] || exit 2
read -r host
case "$host" in
    one:5000) echo '{"ServerURL": "one:5000", "Username": "me", "Secret": "secret"}' ;;
    token) echo '{"Username": "<token>", "Secret": "x"}' ;;
    odd) echo '{"Username": 5}' ;;
    https://index.docker.io/v1/) echo '{"Username": "me", "Secret": "secret"}' ;;
    *) echo "credentials not found in native keychain"; exit 1 ;;
esac
"""


def test_credential_helpers_are_called_for_their_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker-credential-mine"
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {"two": {"auth": ME}, "one:5000": {}}, "credsStore": "mine"}))
    credentials = transfer_auth.read_config(path)
    assert credentials.of("https://one:5000/x") == ME
    assert credentials.of("https://two") == ME
    assert credentials.of("https://three") is None
    assert credentials.of("https://registry-1.docker.io") == ME
    for host, problem in (("token", "identity token for token"), ("odd", "invalid answer")):
        with pytest.raises(BadInput, match=problem):
            credentials.of(f"https://{host}")
    only = Credentials(helpers={"one:5000": "mine", "gone": "none-of-that-name", "evil": "../../bin/sh"})
    assert only.of("https://one:5000") == ME
    assert only.of("https://two") is None
    for host, problem in (("gone", "is not installed"), ("evil", "is not a valid name of a credential helper")):
        with pytest.raises(BadInput, match=problem):
            only.of(f"https://{host}")


def fixed_response(
    status: int, headers: Mapping[str, str], body: bytes = b""
) -> type[http.server.BaseHTTPRequestHandler]:
    """A handler that gives every request the same response; PORT in a header is replaced by the port of the server."""

    class Fixed(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Logs nothing."""

        def do_GET(self) -> None:
            self.send_response(status)
            port = str(self.server.server_port)  # type: ignore[attr-defined]  # an HTTPServer
            for name, value in headers.items():
                self.send_header(name, value.replace("PORT", port))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Fixed


@pytest.mark.parametrize(
    ("status", "header", "value"),
    [
        *((302, "Location", to) for to in ("http://[::/x", "http://a:99999999/", "//", "http:///x", "http://a\x85b/")),
        *((302, "Location", to) for to in ("gopher://a/", "\x1b[2J", "http://user@[x]/")),
        (401, "WWW-Authenticate", 'Bearer realm="http://[::"'),
        (401, "WWW-Authenticate", 'Bearer realm="http://127.0.0.1:PORT/x"'),
        (401, "WWW-Authenticate", 'Bearer realm="ftp://127.0.0.1/x"'),
        (401, "WWW-Authenticate", 'Bearer realm=""'),
        (401, "WWW-Authenticate", "Bearer"),
        (401, "WWW-Authenticate", 'Basic realm="x"'),
    ],
)
def test_invalid_redirects_and_challenges_give_one_line(status: int, header: str, value: str) -> None:
    with answering(fixed_response(status, {header: value})) as base:
        client = HttpClient(base)
        with pytest.raises(DeployError) as caught:
            client.ask("GET", "/v2/")
        client.close()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "to", ["http://a.example/x", "http://b.example/x", "https://a:0/x", "ftp://a.example/x", "file:///x"]
)
def test_redirects_to_less_secure_addresses_are_refused(to: str) -> None:
    with pytest.raises(Unreachable, match="less secure"):
        transfer_http.resolve("https://a.example/v2/", to)
    assert transfer_http.resolve("https://a.example/v2/", "/x") == "https://a.example/x"
    assert transfer_http.resolve("https://a.example/v2/", "https://b.example/x") == "https://b.example/x"
    assert transfer_http.resolve("http://127.0.0.1:5000/v2/", "https://b.example/x") == "https://b.example/x"


@pytest.mark.parametrize("body", [b"[" * 100_000, b"5", b'{"token": 5}', b"\xff", b"{}", b""])
def test_an_invalid_token_response_gives_one_line(body: bytes) -> None:
    with answering(fixed_response(200, {}, body)) as realm:
        header = {"WWW-Authenticate": f'Bearer realm="{realm}/"'}
        with answering(fixed_response(401, header)) as base, pytest.raises(BadInput, match="granted no token"):
            HttpClient(base).ask("GET", "/v2/")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_password_is_not_sent_to_another_site_for_a_token(scheme: str) -> None:
    header = {"WWW-Authenticate": f'Bearer realm="{scheme}://elsewhere.example/"'}
    with answering(fixed_response(401, header)) as base, pytest.raises(BadInput, match=r"less secure|another site"):
        HttpClient(base, ME).ask("GET", "/v2/")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("registry.gitlab.com", "gitlab.com", True),
        ("registry-1.docker.io", "auth.docker.io", True),
        ("ghcr.io", "ghcr.io", True),
        ("evil.example", "registry.example", False),
        ("notgitlab.com", "gitlab.com", False),
        ("docker.io.evil.example", "auth.docker.io", False),
    ],
)
def test_a_site_is_a_domain_with_its_subdomains(one: str, other: str, same: bool) -> None:
    assert transfer_http._same_site(one, other) is same
    assert transfer_http._same_site(other, one) is same


def test_a_password_is_not_sent_unencrypted_to_another_machine() -> None:
    with pytest.raises(BadInput, match="without encryption"):
        HttpClient("http://registry.example", authorization=f"Basic {ME}").ask("GET", "/v2/")


class SlowServer(http.server.BaseHTTPRequestHandler):
    """Sends `100 Continue` repeatedly; for /body, a byte of the body at a time."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Logs nothing."""

    def do_GET(self) -> None:
        line = b"HTTP/1.1 100 Continue\r\n\r\n"
        if self.path == "/body":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            line = b"x"
        with suppress(OSError):
            for _ in range(2000):
                self.wfile.write(line)
                time.sleep(0.01)


@pytest.mark.parametrize("path", ["/head", "/body"])
def test_the_timeout_applies_to_a_slow_server(path: str) -> None:
    with answering(SlowServer) as base:
        start = time.monotonic()
        with pytest.raises(Unreachable, match="did not finish within"):
            b"".join(HttpClient(base, timeout=0.5).stream(path, 0, 1_000_000))
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("path", ["/head", "/body"])
def test_without_a_timeout_there_is_a_minimum_speed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_http, "_SECONDS", 0.3)
    monkeypatch.setattr(transfer_http, "_SLOWEST", 1 << 30)
    with answering(SlowServer) as base, pytest.raises(Unreachable, match="did not finish within"):
        HttpClient(base).ask("GET", path)


class RecordingProxy(http.server.BaseHTTPRequestHandler):
    """A proxy that answers every request itself, and records its path and credentials."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def log_message(self, format: str, *arguments: object) -> None:
        """Logs nothing."""

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Proxy-Authorization")))
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"proxied")

    def do_CONNECT(self) -> None:
        self.seen.append((self.path, self.headers.get("Proxy-Authorization")))
        self.send_response(403)
        self.end_headers()


def test_proxies_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    RecordingProxy.seen.clear()
    with answering(RecordingProxy) as proxy, answering(fixed_response(200, {}, b"direct")) as base:
        proxy_url = proxy.replace("http://", "http://me:secret@")
        monkeypatch.setenv("HTTP_PROXY", proxy_url)
        monkeypatch.setenv("HTTPS_PROXY", proxy_url)
        assert HttpClient("http://far.example").ask("GET", "/x?y=1").body == b"proxied"
        with pytest.raises(Unreachable, match="403"):
            HttpClient("https://far.example:444").ask("GET", "/x")
        assert HttpClient(base).ask("GET", "/").body == b"direct"
        monkeypatch.setenv("NO_PROXY", "far.example")
        with pytest.raises(Unreachable, match="does not answer"):
            HttpClient("http://far.example").ask("GET", "/x")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:1")
        with pytest.raises(BadInput, match="unsupported proxy"):
            HttpClient("http://far.example").ask("GET", "/x")
    assert RecordingProxy.seen == [("http://far.example/x?y=1", f"Basic {ME}"), ("far.example:444", f"Basic {ME}")]
