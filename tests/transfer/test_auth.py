"""Challenges of strangers, token servers and credential helpers: none gets more than it may have, nor more time."""

from __future__ import annotations

import http.server
from pathlib import Path

import pytest

from deploytool.errors import BadInput, Unreachable
from deploytool.transfer import auth
from deploytool.transfer.auth import Credentials
from deploytool.transfer.http import HttpClient
from tests.transfer.test_http import ME, SlowServer, answering, fixed_response


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Bearer realm="http://127.0.0.1:1/x"'])
def test_a_challenge_of_another_server_is_not_answered(challenge: str) -> None:
    asked: list[tuple[str, str | None]] = []

    class There(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Logs nothing."""

        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(401)
            self.send_header("WWW-Authenticate", challenge)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with answering(There) as there, answering(fixed_response(307, {"Location": f"{there}/blob"})) as here:
        client = HttpClient(here, ME)
        with pytest.raises(BadInput, match=r"authentication failed \(401"):
            client.ask("GET", "/blob")
        client.close()
    assert asked == [("/blob", None)]
    assert client.authorization is None


def test_a_token_server_has_no_more_time_than_its_registry() -> None:
    with answering(SlowServer) as realm:
        challenge = {"WWW-Authenticate": f'Bearer realm="{realm}/token"'}
        with (
            answering(fixed_response(401, challenge)) as base,
            pytest.raises(Unreachable, match="did not finish within"),
        ):
            HttpClient(base, timeout=2.0).ask("GET", "/v2/")


def test_a_token_is_fetched_over_tls_or_from_this_machine() -> None:
    client = HttpClient("https://registry.example")
    for realm in ("http://registry.example/token", "http://127.0.0.1.example/token", "ftp://registry.example/token"):
        with pytest.raises(BadInput, match="less secure"):
            client._realm(realm)
    for realm in ("https://registry.example/token", "http://127.0.0.1:5000/token"):
        assert client._realm(realm) == realm


def test_a_credential_helper_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker-credential-hanging"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(auth, "_SECONDS", 0.3)
    with pytest.raises(BadInput, match="docker-credential-hanging failed"):
        Credentials(store="hanging").of("https://registry.example")
