"""Logins, redirects and answers that are not to be believed."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploytool import bundle
from deploytool.errors import BadInput, Refused, Unreachable
from deploytool.shipping import landing, logins, places, registry, sources, wire
from deploytool.shipping.wire import Wire
from tests.shipping import servers, small

ME = base64.b64encode(b"me:secret").decode()


@contextmanager
def answering(answer: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_registry_that_wants_a_password(tmp_path: Path) -> None:
    if not servers.REGISTRY:
        pytest.skip("no docker-registry on this machine: apt-get install docker-registry")
    (tmp_path / "htpasswd").write_text(f"{servers.LOGIN}\n")
    auth = f"auth: {{htpasswd: {{realm: r, path: {tmp_path / 'htpasswd'}}}}}\n"
    folder = small.made(tmp_path / "in", 1)
    with servers.registry(tmp_path, auth) as running:
        host = f"127.0.0.1:{running.port}"
        place = places.parse(f"oci://{host}/locked:1")
        assert isinstance(place, places.Registry)
        config = tmp_path / "config.json"
        for known, lets_in in (({}, False), ({host: "me:wrong"}, False), ({host: "me:secret"}, True)):
            auths = {name: {"auth": base64.b64encode(who.encode()).decode()} for name, who in known.items()}
            config.write_text(json.dumps({"auths": auths}))
            if not lets_in:
                with pytest.raises(BadInput, match="does not let us in: 401"):
                    registry.push(folder, bundle.read(folder), place, logins.read(config), say=print)
                with (
                    pytest.raises(BadInput, match="does not let us in: 401"),
                    sources.opened(place, logins.read(config)),
                ):
                    pass
        registry.push(folder, bundle.read(folder), place, logins.read(config), chunk=200, say=lambda line: None)
        with sources.opened(place, logins.read(config)) as source:
            landing.land(source, tmp_path / "out", None, say=lambda line: None)
    assert small.contents(tmp_path / "out") == small.contents(folder)


def test_a_token_is_fetched_once_for_the_scope_that_is_asked_for() -> None:
    with servers.tokens("me", "secret") as (base, asked):
        door = Wire(base, ME)
        assert [door.ask("GET", "/v2/a").body for _ in range(2)] == [b"welcome"] * 2
        assert asked == ["/v2/a", "/token?service=s&scope=repository%3Aa%3Apull", "/v2/a", "/v2/a"]
        door.close()
        for who in (None, base64.b64encode(b"me:wrong").decode()):
            with pytest.raises(BadInput, match=r"does not let us in|gives no token"):
                Wire(base, who).ask("GET", "/v2/a")


def test_a_password_is_not_carried_to_another_server() -> None:
    seen: list[str | None] = []

    class There(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

    with answering(There) as there:

        class Here(There):
            def do_GET(self) -> None:
                seen.append(self.headers.get("Authorization"))
                self.send_response(307)
                self.send_header("Location", f"{there}/blob")
                self.send_header("Content-Length", "0")
                self.end_headers()

        with answering(Here) as here:
            door = Wire(here, authorization=f"Basic {ME}")
            assert b"".join(door.stream("/blob", 0, 5)) == b"hello"
            door.close()
    assert seen == [f"Basic {ME}", None]


@pytest.mark.parametrize(
    ("status", "headers", "body", "problem", "kind"),
    [
        (200, {"Content-Length": "4"}, b"hell", "has another size", Refused),
        (200, {"Content-Length": "6"}, b"hello!", "has another size", Refused),
        (200, {}, b"hell", "broke off", Unreachable),
        (206, {"Content-Range": "bytes 1-4/5", "Content-Length": "4"}, b"ello", "another part", Refused),
        (206, {"Content-Range": "bytes 2-4/9", "Content-Length": "3"}, b"llo", "has another size", Refused),
        (416, {"Content-Range": "bytes */2", "Content-Length": "0"}, b"", "has another size", Refused),
        (404, {"Content-Length": "0"}, b"", "is not there", Refused),
        (500, {"Content-Length": "0"}, b"", "answers 500", Unreachable),
        (302, {"Location": "/again", "Content-Length": "0"}, b"", "leads in circles", Unreachable),
        (302, {"Location": "ftp://x/y", "Content-Length": "0"}, b"", "less safe", Unreachable),
        (302, {"Location": "file:///etc/passwd", "Content-Length": "0"}, b"", "less safe", Unreachable),
    ],
)
def test_answers_that_are_not_believed(
    status: int, headers: dict[str, str], body: bytes, problem: str, kind: type[Exception]
) -> None:
    class Says(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    with answering(Says) as base:
        door = Wire(base)
        with pytest.raises(kind, match=problem):
            b"".join(door.stream("/x", 2, 5))
        door.close()


def test_nobody_fills_our_memory(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b" " * (wire.LONGEST + 1))
    with servers.web(tmp_path) as url, pytest.raises(Refused, match="more than is reasonable"):
        Wire(url).ask("GET", f"{url}manifest.json")


def test_logins_are_those_of_docker(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert logins.read(path) == {}
    entries = {"https://one/v1/": {"auth": ME}, "two:5000": {"username": "me", "password": "secret"}, "three": {}}
    path.write_text(json.dumps({"auths": entries, "credsStore": "desktop"}))
    assert logins.read(path) == {"one": ME, "two:5000": ME}
    assert places.login("https://two:5000/x", logins.read(path)) == ME
    assert places.login("https://two:5001", logins.read(path)) is None
    path.write_text("[]")
    with pytest.raises(BadInput, match=r"is no config\.json"):
        logins.read(path)
