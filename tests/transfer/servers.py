"""Servers on loopback: a registry, an sshd, a web server, a token server, and a proxy that counts and cuts bytes."""

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
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait(port: int) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"no server answers on port {port}")


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
    """A running registry: its port, the folder of its blobs, and its log."""

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
    """Runs docker-registry; `auth` and `tls` are the sections of its configuration with these names."""
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
    """A running sshd: its port, the configuration in which ssh knows it as `device`, and the login key."""

    port: int
    config: Path
    key: Path


@contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """Runs OpenSSH's server for the current user, with new host and login keys."""
    assert SSHD
    folder.chmod(0o700)
    port, key, host = free_port(), folder / "key", folder / "host"
    for path in (key, host):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    shutil.copy(folder / "key.pub", folder / "authorized")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # the chroot of sshd's privilege separation
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


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Logs nothing."""


@contextmanager
def web(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Runs a web server without support for ranges; yields its URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder))) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


class Proxy:
    """Forwards TCP connections, counts bytes in each direction, and cuts connections after `cut_up` or `cut_down`."""

    def __init__(self, to: int) -> None:
        self.up = self.down = 0
        self.cut_up: int | None = None
        self.cut_down: int | None = None
        self.tap: Callable[[bytes], None] | None = None
        self._to, self._open = to, True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def reset(self) -> None:
        self.up = self.down = 0
        self.cut_up = self.cut_down = None

    def close(self) -> None:
        self._open = False
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _serve(self) -> None:
        while self._open:
            try:
                client, _ = self._listener.accept()
                upstream = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            self._connections += [client, upstream]
            threading.Thread(target=self._forward, args=(client, upstream, "up"), daemon=True).start()
            threading.Thread(target=self._forward, args=(upstream, client, "down"), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 14):
                limit = getattr(self, f"cut_{direction}")
                if limit is not None and getattr(self, direction) + len(block) > limit:
                    block = block[: max(0, limit - getattr(self, direction))]
                    target.sendall(block)
                    setattr(self, direction, getattr(self, direction) + len(block))
                    break
                setattr(self, direction, getattr(self, direction) + len(block))
                target.sendall(block)
        for connection in (source, target):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(to: int) -> Iterator[Proxy]:
    running = Proxy(to)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def tokens(user: str, password: str) -> Iterator[tuple[str, list[str]]]:
    """Runs a token server and, on the same port, a registry that requires its tokens; yields URL and requests."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    requests: list[str] = []

    class Handler(_QuietHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            if self.path.startswith("/token"):
                right = self.headers.get("Authorization") == expected
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

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
        server.shutdown()
        thread.join()
