"""Proxies as the environment names them: HTTPS_PROXY, HTTP_PROXY, NO_PROXY, in capitals or not."""

from __future__ import annotations

import base64
import urllib.request
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from deploytool.errors import BadInput
from deploytool.transfer import addresses


def find_proxy(parts: SplitResult) -> SplitResult | None:
    """The proxy that leads to an address; None if there is none, and always for this machine itself.

    Raises BadInput for a proxy that is no address of one.
    """
    host = parts.hostname or ""
    named = urllib.request.getproxies_environment().get(parts.scheme)
    if not named or addresses.is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    try:
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        known = proxy.scheme == "http" and bool(proxy.hostname) and proxy.port != 0
    except ValueError:
        known = False
    if not known:
        raise BadInput(f"{named[:200]!r} is no proxy that is known", "set HTTPS_PROXY to http://host:port")
    return proxy


def authorization_header(proxy: SplitResult) -> Mapping[str, str]:
    """Who we are at a proxy, as its address says."""
    if proxy.username is None:
        return {}
    both = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(both.encode()).decode()}"}


def target(parts: SplitResult) -> str:
    """What is asked for: a path, or the whole address of a proxy that is to fetch it without TLS."""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"http://{parts.netloc}{path}" if parts.scheme == "http" and find_proxy(parts) else path


def headers(parts: SplitResult) -> Mapping[str, str]:
    """What such a proxy has to be told with every request."""
    proxy = find_proxy(parts) if parts.scheme == "http" else None
    return authorization_header(proxy) if proxy else {}
