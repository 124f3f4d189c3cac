"""Proxies: which are taken, and to whom their password goes."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from deploytool.errors import BadInput
from deploytool.transfer import proxies


def test_the_password_of_a_proxy_goes_to_no_server_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://me:secret@proxy.example:3128")
    assert "Proxy-Authorization" in proxies.headers(urlsplit("http://far.example/x"))
    assert proxies.headers(urlsplit("https://far.example/x")) == {}  # over TLS, headers go to the server itself
    assert proxies.target(urlsplit("https://far.example/x")) == "/x"


@pytest.mark.parametrize("named", ["http://proxy:0", "http://:3128", "https://proxy:1", "http://[x", "http://proxy:x"])
def test_what_is_no_proxy(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", named)
    with pytest.raises(BadInput):
        proxies.find_proxy(urlsplit("https://far.example/x"))
