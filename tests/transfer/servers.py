"""Real servers on loopback for tests: a registry, an sshd, a web server, and a proxy that counts and cuts."""

from __future__ import annotations

import base64
import getpass
import http.server
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

REGISTRY, SSHD = shutil.which("docker-registry"), shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
_SECONDS = 20
LOGIN = "me:$2b$04$Y/9av/d6lO6/OUChSCT4B.iTssKRMbhQbk84GPprDlAY.aZQjFWhS"  # the password is `secret`


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait(port: int) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nobody answers on port {port}")


@contextmanager
def started(command: list[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as opened, subprocess.Popen(command, stdout=opened, stderr=opened) as running:
        try:
            wait(port)
            yield
        finally:
            running.terminate()


@dataclass(frozen=True)
class Registry:
    """A running registry, where it keeps its blobs, and what it says."""

    port: int
    storage: Path
    log: Path

    def blob(self, sha256: str) -> Path:
        return self.storage / "docker/registry/v2/blobs/sha256" / sha256[:2] / sha256 / "data"

    def repositories(self) -> list[str]:
        home = self.storage / "docker/registry/v2/repositories"
        return sorted(path.parent.name for path in home.rglob("current/link"))


@contextmanager
def registry(folder: Path, auth: str = "", tls: str = "") -> Iterator[Registry]:
    """Debian's docker-registry; `auth` is the `auth:` part of its configuration, `tls` the part of that name."""
    assert REGISTRY
    port, storage, log = free_port(), folder / "storage", folder / "registry.log"
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {storage}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', secret: s{tls and ', tls: '}{tls}}}\n{auth}"
    )
    with started([REGISTRY, "serve", str(config)], port, log):
        yield Registry(port, storage, log)


@dataclass(frozen=True)
class Sshd:
    """A running sshd and the configuration with which ssh finds it as `device`."""

    port: int
    config: Path
    key: Path


@contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """OpenSSH's server for whoever runs the tests, with a host key and a login key of its own."""
    assert SSHD
    folder.chmod(0o700)
    port, key, host = free_port(), folder / "key", folder / "host"
    for path in (key, host):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    shutil.copy(folder / "key.pub", folder / "authorized")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where root's sshd locks itself in before a login
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nAuthorizedKeysFile {folder / 'authorized'}\n"
        f"PidFile {folder / 'pid'}\nPasswordAuthentication no\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n"
    )
    (folder / "known").write_text(f"device {(folder / 'host.pub').read_text()}")
    config = folder / "ssh_config"
    config.write_text(
        f"Host device\nHostName 127.0.0.1\nPort {port}\nUser {getpass.getuser()}\nIdentityFile {key}\n"
        f"HostKeyAlias device\nIdentitiesOnly yes\nUserKnownHostsFile {folder / 'known'}\nStrictHostKeyChecking yes\n"
    )
    with started([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], port, folder / "sshd.log"):
        yield Sshd(port, config, key)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


@contextmanager
def web(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A plain web server that knows no ranges; its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


class Proxy:
    """Passes bytes on, counts them each way, and cuts every line after `cut` bytes of one way or the other."""

    def __init__(self, to: int) -> None:
        self.up = self.down = 0
        self.cut_up: int | None = None
        self.cut_down: int | None = None
        self.tap: Callable[[bytes], None] | None = None
        self._to, self._open = to, True
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._lines: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def reset(self) -> None:
        self.up = self.down = 0
        self.cut_up = self.cut_down = None

    def close(self) -> None:
        self._open = False
        self._listening.close()
        for line in self._lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()

    def _serve(self) -> None:
        while self._open:
            try:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            self._lines += [near, far]
            threading.Thread(target=self._pass, args=(near, far, "up"), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, "down"), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, way: str) -> None:
        with suppress(OSError):
            while block := one.recv(1 << 14):
                most = getattr(self, f"cut_{way}")
                if most is not None and getattr(self, way) + len(block) > most:
                    block = block[: max(0, most - getattr(self, way))]
                    other.sendall(block)
                    setattr(self, way, getattr(self, way) + len(block))
                    break
                setattr(self, way, getattr(self, way) + len(block))
                other.sendall(block)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(to: int) -> Iterator[Proxy]:
    made = Proxy(to)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def tokens(user: str, password: str) -> Iterator[tuple[str, list[str]]]:
    """What hands out Bearer tokens and, on the same port, a registry that wants them; the token and who asked."""
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    asked: list[str] = []

    class Door(_Quiet):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path.startswith("/token"):
                right = self.headers.get("Authorization") == wanted
                self._answer(200 if right else 401, json.dumps({"token": "let-me-in"}).encode())
            elif self.headers.get("Authorization") != "Bearer let-me-in":
                self.send_response(401)
                realm = f"http://{self.headers['Host']}/token"
                self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="s",scope="repository:a:pull"')
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._answer(200, b"welcome")

        def _answer(self, status: int, raw: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()
