"""Reads the HTTP proxies that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name, in upper or lower case."""

from __future__ import annotations

import base64
import urllib.request
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from deploytool.errors import BadInput
from deploytool.transfer import addresses


def find_proxy(url: SplitResult) -> SplitResult | None:
    """The proxy for a URL; None without one, and always for this machine itself.

    Raises BadInput if the variable holds no http:// URL of a proxy.
    """
    host = url.hostname or ""
    value = urllib.request.getproxies_environment().get(url.scheme)
    if not value or addresses.is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    try:
        proxy = urlsplit(value if "://" in value else f"http://{value}")
        supported = proxy.scheme == "http" and bool(proxy.hostname) and proxy.port != 0
    except ValueError:
        supported = False
    if not supported:
        raise BadInput(f"unsupported proxy {value[:200]!r}", "set HTTPS_PROXY to http://host:port")
    return proxy


def authorization_header(proxy: SplitResult) -> Mapping[str, str]:
    """The Proxy-Authorization header for the user and password in the URL of a proxy; empty without a user."""
    if proxy.username is None:
        return {}
    credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


def target(url: SplitResult) -> str:
    """The target of a request line: the path, or the absolute URL for a proxy that forwards plain HTTP."""
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return f"http://{url.netloc}{path}" if url.scheme == "http" and find_proxy(url) else path


def headers(url: SplitResult) -> Mapping[str, str]:
    """The headers that a proxy needs with every request that it forwards as plain HTTP."""
    proxy = find_proxy(url) if url.scheme == "http" else None
    return authorization_header(proxy) if proxy else {}
