"""An HTTP client for one server: follows redirects, authenticates, and bounds each response in size and time."""

from __future__ import annotations

import http.client
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

from deploytool import serde
from deploytool.errors import BadInput, Refused, Unreachable
from deploytool.transfer import addresses, auth, proxies

LONGEST = 4 << 20  # bytes of a response that is kept in memory
_BLOCK = 1 << 20
_SECONDS = 60.0  # until a response begins, and between two reads
_SLOWEST = 1 << 10  # bytes a second, the lowest rate that is accepted
_REDIRECTS = 5
_DOCKER_HUB = ".docker.io"
_REDIRECT_CODES = (301, 302, 303, 307, 308)
_AGAIN = "check the network and the address, and try again: the transfer resumes"
_LOG_IN = "log in with `docker login`, or use another name"
_GIVE_CA = "if you trust it, give the certificate of its certificate authority with --ca FILE"


@dataclass(frozen=True)
class Reply:
    """The status, the headers with names in lower case, and the body of a response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """A client of one server; `basic` is user and password in base64.

    `ca` is a file (PEM) of certificate authorities; None uses the system's. All requests together must end within
    `timeout` seconds; without one, a response must begin within a minute and arrive with at least 1 KiB/s.
    The proxies are those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY, never for this machine itself.
    """

    def __init__(
        self,
        base: str,
        basic: str | None = None,
        authorization: str | None = None,
        ca: Path | None = None,
        timeout: float | None = None,
    ) -> None:
        self.base, self.authorization = base, authorization
        self._basic, self._ca, self._may_authenticate = basic, ca, True
        self._end = math.inf if timeout is None else time.monotonic() + timeout
        self._connections: dict[str, http.client.HTTPConnection] = {}
        self._sockets: dict[str, socket.socket | None] = {}  # also where the response has closed its connection

    def ask(
        self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, again: bool = True
    ) -> Reply:
        """Sends a request and returns the whole response, of at most LONGEST bytes; `again` if it may be sent twice.

        Raises Unreachable without a response, BadInput if authentication fails.
        """
        url, response = self._request(method, url, body, headers or {}, again=again)
        raw = self._read(url, response, LONGEST + 1)
        if len(raw) > LONGEST:
            self._drop(url)
            raise Refused(f"{url} sent a response of more than {LONGEST >> 20} MiB", "check the address")
        return Reply(response.status, _headers(response), raw)

    def stream(self, url: str, start: int, size: int) -> Iterator[bytes]:
        """Yields a file of `size` bytes from byte `start` on, a block at a time.

        Raises Refused if the file does not exist or has another size, Unreachable if the transfer is interrupted.
        """
        ranged = {"Range": f"bytes={start}-"} if start else {}
        url, response = self._request("GET", url, b"", {**ranged, "Accept-Encoding": "identity"}, again=True)
        try:
            _expect(url, response, start, size)
            skip = start if response.status == 200 else 0  # the server does not support ranges
            left = size - (0 if response.status == 200 else start)
            while left > 0:
                block = self._read(url, response, min(_BLOCK, left))
                if not block:
                    raise Unreachable(f"{url} was interrupted {left} bytes before its end", _AGAIN)
                left -= len(block)
                if len(block) > skip:
                    yield block[skip:]
                skip = max(0, skip - len(block))
        finally:
            if not response.isclosed():
                self._drop(url)

    def close(self) -> None:
        """Closes every connection."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _request(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], *, again: bool
    ) -> tuple[str, http.client.HTTPResponse]:
        """Sends a request, follows redirects and authenticates; returns the final URL and the response, body unread."""
        url, authenticated = urljoin(self.base, url), False
        for _ in range(_REDIRECTS):
            response = self._sent(method, url, body, headers, again=again)
            if response.status == 401 and not authenticated and self._may_authenticate and self._is_own(url):
                self._discard(url, response)
                authenticated = self._authenticate(response.headers.get("WWW-Authenticate", ""))
                if authenticated:
                    continue
            if response.status in (401, 403):
                self._discard(url, response)
                raise BadInput(
                    f"{urlsplit(url).netloc}: authentication failed ({response.status} {response.reason})", _LOG_IN
                )
            if response.status in _REDIRECT_CODES and method in ("GET", "HEAD"):
                self._discard(url, response)
                url = resolve(url, response.headers.get("Location", ""))
                continue
            if response.status >= 500 or response.status == 429:
                self._discard(url, response)
                raise Unreachable(f"{url} answers {response.status} {response.reason}", _AGAIN)
            return url, response
        raise Unreachable(f"{url} redirects more than {_REDIRECTS} times", "check the address")

    def _sent(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], *, again: bool
    ) -> http.client.HTTPResponse:
        parts, sent = urlsplit(url), {**headers, **proxies.headers(urlsplit(url))}
        if self.authorization and self._is_own(url):
            self._refuse_in_clear(parts)
            sent["Authorization"] = self.authorization
        if body or method in ("POST", "PUT", "PATCH"):
            sent["Content-Length"] = str(len(body))
        origin = _origin(url)
        reused = origin in self._connections
        try:
            connection = (
                self._connections[origin]
                if reused
                else self._connections.setdefault(origin, _connection(url, self._ca))
            )
            with self._within(lambda: connection.sock, _SECONDS + len(body) / _SLOWEST):
                connection.request(method, proxies.target(parts), body or None, sent)
                self._sockets[origin] = connection.sock
                return connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            self._drop(url)
            raise BadInput(
                f"the TLS certificate of {origin} is not trusted: {error.verify_message}", _GIVE_CA
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._drop(url)
            if reused and again:  # the server may have closed the idle connection
                return self._sent(method, url, body, headers, again=False)
            raise Unreachable(f"{origin} does not answer: {error or type(error).__name__}", _AGAIN) from error

    def _authenticate(self, header: str) -> bool:
        """Sets the authorization that a challenge asks for; returns whether there is a new one to try."""
        scheme, parameters = auth.parse_challenge(header)
        if scheme == "basic" and self._basic:
            self.authorization = f"Basic {self._basic}"
            return True
        if scheme != "bearer" or "realm" not in parameters:
            return False
        realm = self._realm(parameters["realm"])
        query = urlencode({name: parameters[name] for name in ("service", "scope") if name in parameters})
        client = HttpClient(realm, authorization=f"Basic {self._basic}" if self._basic else None, ca=self._ca)
        client._end, client._may_authenticate = self._end, False
        try:
            reply = client.ask("GET", f"{realm}?{query}")
        finally:
            client.close()
        with suppress(ValueError, TypeError, AttributeError):
            granted = serde.loads(reply.body)
            token = granted.get("token") or granted.get("access_token")
            if reply.status == 200 and isinstance(token, str):
                self.authorization = f"Bearer {token}"
                return True
        raise BadInput(f"{realm} granted no token ({reply.status})", _LOG_IN)

    def _realm(self, to: str) -> str:
        """The URL of a token server; a password is sent only to one on the site of the registry."""
        url, parts = _join(self.base, to), urlsplit(self.base)
        realm = urlsplit(url or "")
        if url is None or not (realm.scheme == "https" or addresses.is_loopback(realm.hostname or "")):
            raise BadInput(
                f"{self.base} names the token server {to[:200]!r}, which is less secure", "check the address"
            )
        if self._basic and not _same_site(parts.hostname or "", realm.hostname or ""):
            problem = (
                f"{self.base} names a token server on another site, {realm.hostname}, which would get the password"
            )
            raise BadInput(problem, "use a registry with its own token server, or log out of it for public artifacts")
        return url

    def _refuse_in_clear(self, parts: SplitResult) -> None:
        if parts.scheme != "https" and not addresses.is_loopback(parts.hostname or ""):
            problem = f"the password for {parts.hostname} would be sent without encryption"
            raise BadInput(problem, "serve it over TLS (--ca names its authority), or log out of it")

    @contextmanager
    def _within(self, find_socket: Callable[[], socket.socket | None], seconds: float) -> Iterator[None]:
        """Closes the socket after `seconds`, because a read that gets a byte now and then never times out."""
        left = min(seconds, self._end - time.monotonic())
        if left <= 0:
            raise Unreachable(f"{self.base} did not finish in time", "allow more with --timeout")
        late = threading.Event()

        def cut() -> None:
            late.set()
            with suppress(OSError):  # it may be closed already
                if (opened := find_socket()) is not None:
                    opened.shutdown(socket.SHUT_RDWR)

        watch = threading.Timer(left, cut)
        watch.daemon = True
        watch.start()
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError):
            if not late.is_set():
                raise
        finally:
            watch.cancel()
        if late.is_set():  # a truncated response may look complete
            raise TimeoutError(f"it did not finish within {left:.1f} s")

    def _is_own(self, url: str) -> bool:
        """Whether a URL is on this client's server, the only one that gets its credentials."""
        return _origin(url) == _origin(self.base)

    def _read(self, url: str, response: http.client.HTTPResponse, most: int) -> bytes:
        try:
            with self._within(lambda: self._sockets.get(_origin(url)), _SECONDS + most / _SLOWEST):
                return response.read(most)
        except (OSError, http.client.HTTPException) as error:
            self._drop(url)
            raise Unreachable(f"{url} was interrupted: {error or type(error).__name__}", _AGAIN) from error

    def _discard(self, url: str, response: http.client.HTTPResponse) -> None:
        if len(self._read(url, response, LONGEST)) == LONGEST:
            self._drop(url)

    def _drop(self, url: str) -> None:
        connection = self._connections.pop(_origin(url), None)
        if connection:
            connection.close()


def resolve(url: str, to: str) -> str:
    """The absolute URL of a location that the server of `url` names; raises Unreachable if it is less secure."""
    target = _join(url, to)
    if target is None or urlsplit(target).scheme not in ("https", urlsplit(url).scheme):
        raise Unreachable(f"{url} redirects to {to[:200]!r}, which is less secure", "check the address")
    return target


def _expect(url: str, response: http.client.HTTPResponse, start: int, size: int) -> None:
    if response.status not in (200, 206, 416):
        raise Refused(
            f"{url} does not exist ({response.status} {response.reason})", "check the address, or push it again"
        )
    ranged = response.headers.get("Content-Range", "").rpartition("/")[2] if response.status != 200 else ""
    total = ranged or (response.headers.get("Content-Length", "") if response.status == 200 else "")
    if response.status == 416 or (total.isdecimal() and int(total) != size):
        raise Refused(f"{url} has another size than the manifest says", "push it again from where it was made")
    if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise Refused(f"{url} answers with another range than requested", "fetch it from another server")


def _headers(response: http.client.HTTPResponse) -> Mapping[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _join(base: str, to: str) -> str | None:
    """The absolute URL of a location that a server names; None if it is not a valid URL."""
    try:
        url = urljoin(base, to)
        parts = urlsplit(url)
        return url if parts.hostname and parts.port != 0 and url.isprintable() else None
    except ValueError:
        return None


def _same_site(one: str, other: str) -> bool:
    """Whether two hosts are equal, or one is in the domain of the other; all of Docker Hub's are one site."""
    hub = all(host.endswith(_DOCKER_HUB) for host in (one, other))
    return one == other or hub or one.endswith(f".{other}") or other.endswith(f".{one}")


def _connection(url: str, ca: Path | None) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"unsupported scheme {parts.scheme!r}")
    proxy = proxies.find_proxy(parts)
    peer = proxy or parts
    host, port = peer.hostname or "", peer.port
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=_SECONDS)
    connection = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=_context(ca))
    if proxy:
        connection.set_tunnel(parts.hostname or "", parts.port, headers=proxies.authorization_header(proxy))
    return connection


def _context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise BadInput(f"{ca} holds no certificate: {error.strerror or error}", "give a PEM file") from error
