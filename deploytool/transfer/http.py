"""One server over HTTP: connections kept, redirects and logins followed, every answer bounded in size and time."""

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

LONGEST = 4 << 20  # bytes of an answer that is kept in memory
_BLOCK = 1 << 20
_SECONDS = 60.0  # for an answer to begin, and of silence
_SLOWEST = 1 << 10  # bytes a second: whoever sends less is not waited for
_HOPS = 5
_HUB = ".docker.io"
_MOVED = (301, 302, 303, 307, 308)
_AGAIN = "check the network and the address, and try again: what has come is kept"
_NO_LOGIN = "log in with `docker login`, or use another name"
_NO_CA = "give its authority's certificate with --ca FILE, if you trust it"


@dataclass(frozen=True)
class Reply:
    """The status, the headers in lower case, and the body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """A server, and who we are there; `basic` is user and password in base64.

    `ca` is a file with the certificates (PEM) of those who may vouch for servers; None leaves it to the system. All
    must be done within `timeout` seconds; without one, an answer must begin within a minute and come with 1 KiB/s.
    A proxy is used as the environment names it (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), never for this machine itself.
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
        self._basic, self._ca, self._can_log_in = basic, ca, True
        self._end = math.inf if timeout is None else time.monotonic() + timeout
        self._kept: dict[str, http.client.HTTPConnection] = {}
        self._lines: dict[str, socket.socket | None] = {}  # those behind answers that close their connection too

    def ask(
        self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, again: bool = True
    ) -> Reply:
        """One request and its whole answer, of LONGEST bytes at the most; `again` if it may be sent twice.

        Raises Unreachable if there is none, BadInput if we are not let in.
        """
        url, answer = self._asked(method, url, body, headers or {}, again=again)
        raw = self._read(url, answer, LONGEST + 1)
        if len(raw) > LONGEST:
            self._drop(url)
            raise Refused(f"{url} answers with more than is reasonable", "check the address")
        return Reply(answer.status, _headers(answer), raw)

    def stream(self, url: str, start: int, size: int) -> Iterator[bytes]:
        """A file of `size` bytes from byte `start` on, a block at a time.

        Raises Refused if there is no such file or one of another size, Unreachable if it breaks off.
        """
        asked = {"Range": f"bytes={start}-"} if start else {}
        url, answer = self._asked("GET", url, b"", {**asked, "Accept-Encoding": "identity"}, again=True)
        try:
            _expect(url, answer, start, size)
            skip = start if answer.status == 200 else 0  # a server that knows no ranges begins at the beginning
            left = size - (0 if answer.status == 200 else start)
            while left > 0:
                block = self._read(url, answer, min(_BLOCK, left))
                if not block:
                    raise Unreachable(f"{url} broke off {left} bytes before its end", _AGAIN)
                left -= len(block)
                if len(block) > skip:
                    yield block[skip:]
                skip = max(0, skip - len(block))
        finally:
            if not answer.isclosed():
                self._drop(url)

    def close(self) -> None:
        """Lets go of every connection."""
        for connection in self._kept.values():
            connection.close()
        self._kept.clear()

    def _asked(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], *, again: bool
    ) -> tuple[str, http.client.HTTPResponse]:
        """The answer to a request where it ends up, its body yet to be read."""
        url, proved = urljoin(self.base, url), False
        for _ in range(_HOPS):
            answer = self._sent(method, url, body, headers, again=again)
            if answer.status == 401 and not proved and self._can_log_in and self._ours(url):
                self._swallow(url, answer)
                proved = self._prove(answer.headers.get("WWW-Authenticate", ""))
                if proved:
                    continue
            if answer.status in (401, 403):
                self._swallow(url, answer)
                raise BadInput(f"{urlsplit(url).netloc} does not let us in: {answer.status} {answer.reason}", _NO_LOGIN)
            if answer.status in _MOVED and method in ("GET", "HEAD"):
                self._swallow(url, answer)
                url = self._moved(url, answer.headers.get("Location", ""))
                continue
            if answer.status >= 500 or answer.status == 429:
                self._swallow(url, answer)
                raise Unreachable(f"{url} answers {answer.status} {answer.reason}", _AGAIN)
            return url, answer
        raise Unreachable(f"{url} leads in circles", "check the address")

    def _moved(self, url: str, to: str) -> str:
        there = _joined(url, to)
        if there is None or urlsplit(there).scheme not in ("https", urlsplit(url).scheme):
            raise Unreachable(f"{url} leads to {to[:200]!r}, which is less safe", "check the address")
        return there

    def _sent(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], *, again: bool
    ) -> http.client.HTTPResponse:
        parts, sent = urlsplit(url), {**headers, **proxies.headers(urlsplit(url))}
        if self.authorization and self._ours(url):
            self._refuse_in_clear(parts)
            sent["Authorization"] = self.authorization
        if body or method in ("POST", "PUT", "PATCH"):
            sent["Content-Length"] = str(len(body))
        origin = _origin(url)
        kept = origin in self._kept
        try:
            connection = self._kept[origin] if kept else self._kept.setdefault(origin, _connection(url, self._ca))
            with self._within(lambda: connection.sock, _SECONDS + len(body) / _SLOWEST):
                connection.request(method, proxies.target(parts), body or None, sent)
                self._lines[origin] = connection.sock
                return connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            self._drop(url)
            raise BadInput(f"nobody we trust vouches for {origin}: {error.verify_message}", _NO_CA) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._drop(url)
            if kept and again:  # the server may have closed it long ago
                return self._sent(method, url, body, headers, again=False)
            raise Unreachable(f"{origin} does not answer: {error or type(error).__name__}", _AGAIN) from error

    def _prove(self, header: str) -> bool:
        """Whether there is more to say of us than we have said."""
        scheme, told = auth.parse_challenge(header)
        if scheme == "basic" and self._basic:
            self.authorization = f"Basic {self._basic}"
            return True
        if scheme != "bearer" or "realm" not in told:
            return False
        realm = self._realm(told["realm"])
        asked = urlencode({name: told[name] for name in ("service", "scope") if name in told})
        door = HttpClient(realm, authorization=f"Basic {self._basic}" if self._basic else None, ca=self._ca)
        door._end, door._can_log_in = self._end, False
        try:
            reply = door.ask("GET", f"{realm}?{asked}")
        finally:
            door.close()
        with suppress(ValueError, TypeError, AttributeError):
            granted = serde.loads(reply.body)
            token = granted.get("token") or granted.get("access_token")
            if reply.status == 200 and isinstance(token, str):
                self.authorization = f"Bearer {token}"
                return True
        raise BadInput(f"{realm} gives no token: {reply.status}", _NO_LOGIN)

    def _realm(self, to: str) -> str:
        """Where a registry sends us for a token; a password goes there if that is the registry's own site."""
        there, parts = _joined(self.base, to), urlsplit(self.base)
        realm = urlsplit(there or "")
        if there is None or not (realm.scheme == "https" or addresses.is_loopback(realm.hostname or "")):
            raise BadInput(f"{self.base} sends us to {to[:200]!r} to log in, which is less safe", "check the address")
        if self._basic and not _same_site(parts.hostname or "", realm.hostname or ""):
            problem = f"{self.base} wants our password sent to another site, {realm.hostname}"
            raise BadInput(problem, "use a registry that hands out its own tokens, or log out there for what is public")
        return there

    def _refuse_in_clear(self, parts: SplitResult) -> None:
        if parts.scheme != "https" and not addresses.is_loopback(parts.hostname or ""):
            problem = f"our password for {parts.hostname} would be sent without encryption"
            raise BadInput(problem, "have it serve TLS (--ca names its authority), or log out of it")

    @contextmanager
    def _within(self, line: Callable[[], socket.socket | None], seconds: float) -> Iterator[None]:
        """Cuts the line if what is done meanwhile is not done in that time: a read that dribbles never times out."""
        left = min(seconds, self._end - time.monotonic())
        if left <= 0:
            raise Unreachable(f"{self.base} was not done in time", "give it more with --timeout")
        late = threading.Event()

        def cut() -> None:
            late.set()
            with suppress(OSError):  # it may have ended by itself
                if (opened := line()) is not None:
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
        if late.is_set():  # what came until then may look like all of it
            raise TimeoutError(f"it was not done within {left:.1f} s")

    def _ours(self, url: str) -> bool:
        """Whether a password may go there: to the server it is for, and to no other."""
        return _origin(url) == _origin(self.base)

    def _read(self, url: str, answer: http.client.HTTPResponse, most: int) -> bytes:
        try:
            with self._within(lambda: self._lines.get(_origin(url)), _SECONDS + most / _SLOWEST):
                return answer.read(most)
        except (OSError, http.client.HTTPException) as error:
            self._drop(url)
            raise Unreachable(f"{url} broke off: {error or type(error).__name__}", _AGAIN) from error

    def _swallow(self, url: str, answer: http.client.HTTPResponse) -> None:
        if len(self._read(url, answer, LONGEST)) == LONGEST:
            self._drop(url)

    def _drop(self, url: str) -> None:
        connection = self._kept.pop(_origin(url), None)
        if connection:
            connection.close()


def _expect(url: str, answer: http.client.HTTPResponse, start: int, size: int) -> None:
    if answer.status not in (200, 206, 416):
        raise Refused(f"{url} is not there: {answer.status} {answer.reason}", "check the address, or send it again")
    said = answer.headers.get("Content-Range", "").rpartition("/")[2] if answer.status != 200 else ""
    total = said or (answer.headers.get("Content-Length", "") if answer.status == 200 else "")
    if answer.status == 416 or (total.isdecimal() and int(total) != size):
        raise Refused(f"{url} has another size than the manifest says", "send it again from where it was made")
    if answer.status == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise Refused(f"{url} answers with another part than was asked for", "fetch it from another server")


def _headers(answer: http.client.HTTPResponse) -> Mapping[str, str]:
    return {name.lower(): value for name, value in answer.getheaders()}


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _joined(base: str, to: str) -> str | None:
    """Where a server points to; None where that is no address."""
    try:
        there = urljoin(base, to)
        parts = urlsplit(there)
        return there if parts.hostname and parts.port != 0 and there.isprintable() else None
    except ValueError:
        return None


def _same_site(one: str, other: str) -> bool:
    """Whether two hosts are one, or one belongs to the domain of the other; Docker Hub's are siblings."""
    hub = all(host.endswith(_HUB) for host in (one, other))
    return one == other or hub or one.endswith(f".{other}") or other.endswith(f".{one}")


def _connection(url: str, ca: Path | None) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"nobody speaks {parts.scheme or 'nothing'} there")
    proxy = proxies.find_proxy(parts)
    place = proxy or parts
    host, port = place.hostname or "", place.port
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=_SECONDS)
    made = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=_context(ca))
    if proxy:
        made.set_tunnel(parts.hostname or "", parts.port, headers=proxies.authorization_header(proxy))
    return made


def _context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise BadInput(f"{ca} holds no certificate: {error.strerror or error}", "give a file in PEM") from error
