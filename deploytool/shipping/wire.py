"""One server over HTTP: connections kept, redirects and logins followed, and every answer bounded."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

from deploytool import plain
from deploytool.errors import BadInput, Refused, Unreachable
from deploytool.shipping import logins

LONGEST = 4 << 20  # bytes of an answer that is kept in memory
_BLOCK = 1 << 20
_SECONDS = 60.0  # of silence
_HOPS = 5
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


class Wire:
    """A server, and who we are there; `basic` is user and password in base64.

    `ca` is a file with the certificates (PEM) of those who may vouch for servers; None leaves it to the system.
    """

    def __init__(
        self, base: str, basic: str | None = None, authorization: str | None = None, ca: Path | None = None
    ) -> None:
        self.base, self.authorization = base, authorization
        self._basic, self._ca = basic, ca
        self._kept: dict[str, http.client.HTTPConnection] = {}

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
            if answer.status == 401 and not proved and self._ours(url):
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
        there = urljoin(url, to)
        if urlsplit(there).scheme not in ("https", urlsplit(url).scheme):
            raise Unreachable(f"{url} leads to {there}, which is less safe", "check the address")
        return there

    def _sent(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], *, again: bool
    ) -> http.client.HTTPResponse:
        parts, sent = urlsplit(url), dict(headers)
        if self.authorization and self._ours(url):
            sent["Authorization"] = self.authorization
        if body or method in ("POST", "PUT", "PATCH"):
            sent["Content-Length"] = str(len(body))
        origin = _origin(url)
        kept = origin in self._kept
        try:
            connection = self._kept[origin] if kept else self._kept.setdefault(origin, _connection(url, self._ca))
            connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body or None, sent)
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
        scheme, told = logins.challenge(header)
        if scheme == "basic" and self._basic:
            self.authorization = f"Basic {self._basic}"
            return True
        if scheme != "bearer" or "realm" not in told:
            return False
        realm = told["realm"]
        if urlsplit(realm).scheme not in ("https", urlsplit(self.base).scheme):
            raise BadInput(f"{self.base} sends us to {realm} to log in, which is less safe", "check the address")
        asked = urlencode({name: told[name] for name in ("service", "scope") if name in told})
        door = Wire(realm, authorization=f"Basic {self._basic}" if self._basic else None, ca=self._ca)
        try:
            reply = door.ask("GET", f"{realm}?{asked}")
        finally:
            door.close()
        with suppress(ValueError, TypeError, AttributeError):
            granted = plain.loads(reply.body)
            token = granted.get("token") or granted.get("access_token")
            if reply.status == 200 and isinstance(token, str):
                self.authorization = f"Bearer {token}"
                return True
        raise BadInput(f"{realm} gives no token: {reply.status}", _NO_LOGIN)

    def _ours(self, url: str) -> bool:
        """Whether a password may go there: to the server it is for, and to no other."""
        return _origin(url) == _origin(self.base)

    def _read(self, url: str, answer: http.client.HTTPResponse, most: int) -> bytes:
        try:
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


def _connection(url: str, ca: Path | None) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "https":
        context = _context(ca)
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=_SECONDS, context=context)
    if parts.scheme != "http":
        raise ValueError(f"nobody speaks {parts.scheme or 'nothing'} there")
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_SECONDS)


def _context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise BadInput(f"{ca} holds no certificate: {error.strerror or error}", "give a file in PEM") from error
