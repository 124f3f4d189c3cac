"""Nor does a text from a registry, a device behind ssh, an install, a machine or a package."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploytool import serde
from deploytool.cli import app
from deploytool.doctor import inventory
from deploytool.host import files, owner
from deploytool.loading import catalog
from tests.cli import hostile
from tests.cli.conftest import Said
from tests.doctor import machines
from tests.transfer import small

ANSWERS: list[tuple[int, str, dict[str, str], str]] = [  # of a registry: status, reason, headers and body
    (500, hostile.HEADER, {}, hostile.HEADER),
    (401, hostile.HEADER, {"WWW-Authenticate": f'Bearer realm="http://127.0.0.1{hostile.HEADER}"'}, ""),
    (302, hostile.HEADER, {"Location": f"ftp://{hostile.HEADER}"}, ""),
    (404, hostile.HEADER, {}, json.dumps({"errors": [{"code": hostile.TEXT, "message": hostile.TEXT}]})),
    (200, "OK", {}, json.dumps(hostile.poisoned({"schemaVersion": 2, "layers": [{"digest": "", "mediaType": ""}]}))),
    (200, "OK", {"Content-Type": hostile.HEADER}, hostile.HEADER),
    (202, "OK", {"Location": f"/{hostile.HEADER}"}, ""),
]


@pytest.fixture(params=ANSWERS, ids=lambda answer: str(answer[0]))
def registry(request: pytest.FixtureRequest) -> Iterator[str]:
    status, reason, headers, body = request.param

    class Handler(BaseHTTPRequestHandler):
        """Says the same to everybody."""

        def log_message(self, format: str, *arguments: object) -> None:
            """Nobody wants to know."""

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
            lines += [f"Content-Length: {len(body.encode('utf-8', 'surrogateescape'))}", "", body]
            self.wfile.write("\r\n".join(lines).encode("utf-8", "surrogateescape"))
            self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _answer  # noqa: N815  # the names that it looks for

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}/m:1"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("device", [False, True])
def test_of_a_registry(said: Said, registry: str, tmp_path: Path, device: bool) -> None:
    said("pull", f"oci://{registry}", "--out", "out", device=device)
    said("pull", f"http://{registry.partition('/')[0]}/folder/", "--out", "out", device=device)
    if not device:
        said("push", small.made(tmp_path / "in", 1), f"oci://{registry}")


SSH = """#!{python}
import sys
sys.stderr.buffer.write({noise!r})
sys.stdout.buffer.write({noise!r} + b"\\ndeploytool:" + {first!r} + b"\\ndeploytool:" + {last!r} + b"\\n")
sys.stdout.flush()
sys.exit(255)
"""
FAILED = {"error": {"problem": hostile.TEXT, "remedy": hostile.TEXT, "exit_code": 3}}
DEVICES = [  # what comes from the device, in two lines
    (b"", b""),
    (json.dumps({"problem": hostile.TEXT}).encode(), b""),
    (json.dumps({"lacking": hostile.TEXT}).encode(), b""),
    (b'{"lacking": []}', json.dumps({"folder": hostile.TEXT, "deploytool": False}).encode()),
    (b'{"lacking": []}', json.dumps({"install": {"said": json.dumps(FAILED)}}).encode()),
    (b'{"lacking": []}', json.dumps({"install": {"complained": hostile.TEXT}}).encode()),
    (b'{"lacking": []}', json.dumps({"install": {"said": json.dumps(hostile.SERVES)}}).encode()),
]


@pytest.mark.parametrize("answers", DEVICES)
def test_of_a_device_behind_ssh(
    said: Said, answers: tuple[bytes, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = hostile.NAME.encode("utf-8", "surrogateescape")
    program = SSH.format(python=sys.executable, noise=noise, first=answers[0], last=answers[1])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(program)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    written = said("ship", small.made(tmp_path / "in", 1), "me@there:/root")
    assert hostile.FORGED in written or answers[0].startswith(b'{"lacking": "')


@pytest.mark.parametrize("device", [False, True])
def test_of_an_install(said: Said, tmp_path: Path, device: bool) -> None:
    root = tmp_path / hostile.NAME
    for command in (("rollback",), ("pardon", "0123")):
        said(*command, "--root", root, device=device)
    root.mkdir()
    pointer = {"current": "a" * 64, "previous": "b" * 64, "sequence": 1, "refused": {f"0123{hostile.TEXT}": "why"}}
    (root / "current").write_text(json.dumps(hostile.poisoned(pointer)), encoding="ascii")
    for command in (("rollback",), ("pardon", "0123"), ("pardon", "9")):
        said(*command, "--root", root, device=device)
    (root / "current").write_text(hostile.NAME, "utf-8", "surrogateescape")
    said("rollback", "--root", root, device=device)


def test_of_what_a_killed_command_left(said: Said, tmp_path: Path) -> None:
    folder = tmp_path / hostile.NAME
    said("clean", folder)
    folder.mkdir()
    left = folder / f".{hostile.HEADER}.{owner.name()}{files.UNFINISHED}"
    left.write_text("")
    os.utime(left, (0, 0))
    for more in ((), ("--json",), ("--yes",)):
        said("clean", folder, *more)
    said("clean", "--root", folder, device=True)


def test_of_a_machine_and_of_packages(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machines.cpu_machine()
    worse = serde.decode(inventory.Inventory, hostile.poisoned(serde.encode(here)))
    monkeypatch.setattr(inventory, "collect", lambda: worse)
    for device in (False, True):
        said("doctor", device=device)
    models = tuple(dataclasses.replace(model, name=hostile.TEXT) for model in catalog.models())
    monkeypatch.setattr(catalog, "models", lambda: models)
    assert hostile.FORGED in said("models")


def test_the_walk_is_of_every_command() -> None:
    """A command that is not walked shows nothing of a stranger's, or it is added to one of these files."""
    walked = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_foreign_*.py"))
    missing = {name for name in app.COMMAND_MODULES if not re.search(rf"[\"' ]{name}[\"' ]", walked)}
    assert missing == hostile.SPEAK_OF_NOBODY
