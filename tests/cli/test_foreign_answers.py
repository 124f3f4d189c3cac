"""Hostile text from a registry, a device, an install, a machine or a package cannot control the terminal."""

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
from deploytool.device import state as device_state
from deploytool.device.state import DeviceState
from deploytool.doctor import inventory
from deploytool.fleet.actions import Action
from deploytool.fleet.result import SCHEMA, DeviceResult, FleetResult, Outcome, StepResult
from deploytool.fleet.run import Observer
from deploytool.host import files, owner
from deploytool.loading import catalog
from deploytool.results.sweep import CellState, Sweep
from deploytool.results.sweep_events import CellEnded, CellReturned, CellStarted, Follow, SweepStarted
from deploytool.sweeps.run import Request
from tests.cli import hostile
from tests.cli.conftest import OutputOf
from tests.doctor import machines
from tests.report import sweeps
from tests.transfer import small

ANSWERS: list[tuple[int, str, dict[str, str], str]] = [  # responses of a registry: status, reason, headers and body
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
    """The address of a server that sends a hostile response."""
    status, reason, headers, body = request.param

    class Handler(BaseHTTPRequestHandler):
        """Sends the same response to every request."""

        def log_message(self, format: str, *arguments: object) -> None:
            """Logs nothing."""

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
            lines += [f"Content-Length: {len(body.encode('utf-8', 'surrogateescape'))}", "", body]
            self.wfile.write("\r\n".join(lines).encode("utf-8", "surrogateescape"))
            self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _answer  # noqa: N815  # names that http.server calls

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}/m:1"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("device", [False, True])
def test_responses_of_a_registry(output_of: OutputOf, registry: str, tmp_path: Path, device: bool) -> None:
    output_of("pull", f"oci://{registry}", "--out", "out", device=device)
    output_of("pull", f"http://{registry.partition('/')[0]}/folder/", "--out", "out", device=device)
    if not device:
        output_of("push", small.make_bundle(tmp_path / "in", 1), f"oci://{registry}")


SSH = """#!{python}
import sys
sys.stdin.buffer.read(int(sys.argv[-1].split()[-1]))  # the receiver, and then the request
sys.stdin.buffer.readline()
sys.stderr.buffer.write({noise!r})
sys.stdout.buffer.write({noise!r} + b"\\ndeploytool:" + {first!r} + b"\\ndeploytool:" + {last!r} + b"\\n")
sys.stdout.flush()
sys.exit(255)
"""
FAILED = {"error": {"problem": hostile.TEXT, "remedy": hostile.TEXT, "exit_code": 3}}
DEVICES = [  # the two lines that the device sends
    (b"", b""),
    (json.dumps({"problem": hostile.TEXT}).encode(), b""),
    (json.dumps({"lacking": hostile.TEXT}).encode(), b""),
    (b'{"lacking": []}', json.dumps({"folder": hostile.TEXT, "deploytool": False}).encode()),
    (b'{"lacking": []}', json.dumps({"install": {"said": json.dumps(FAILED)}}).encode()),
    (b'{"lacking": []}', json.dumps({"install": {"complained": hostile.TEXT}}).encode()),
    (b'{"lacking": []}', json.dumps({"install": {"said": json.dumps(hostile.SERVES)}}).encode()),
]


@pytest.mark.parametrize("answers", DEVICES)
def test_output_of_a_device_over_ssh(
    output_of: OutputOf, answers: tuple[bytes, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = hostile.NAME.encode("utf-8", "surrogateescape")
    program = SSH.format(python=sys.executable, noise=noise, first=answers[0], last=answers[1])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(program)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    output = output_of("ship", small.make_bundle(tmp_path / "in", 1), "me@there:/root")
    assert hostile.FORGED in output or answers[0].startswith(b'{"lacking": "')


@pytest.mark.parametrize("device", [False, True])
def test_files_of_an_install(output_of: OutputOf, tmp_path: Path, device: bool) -> None:
    root = tmp_path / hostile.NAME
    for command in (("rollback",), ("pardon", "0123")):
        output_of(*command, "--root", root, device=device)
    root.mkdir()
    pointer = {"current": "a" * 64, "previous": "b" * 64, "sequence": 1, "refused": {f"0123{hostile.TEXT}": "why"}}
    (root / "current").write_text(json.dumps(hostile.poisoned(pointer)), encoding="ascii")
    for command in (("rollback",), ("pardon", "0123"), ("pardon", "9")):
        output_of(*command, "--root", root, device=device)
    (root / "current").write_text(hostile.NAME, "utf-8", "surrogateescape")
    output_of("rollback", "--root", root, device=device)


def test_leftovers_of_a_killed_command(output_of: OutputOf, tmp_path: Path) -> None:
    folder = tmp_path / hostile.NAME
    output_of("clean", folder)
    folder.mkdir()
    leftover = folder / f".{hostile.HEADER}.{owner.name()}{files.UNFINISHED}"
    leftover.write_text("")
    os.utime(leftover, (0, 0))
    for options in ((), ("--json",), ("--yes",)):
        output_of("clean", folder, *options)
    output_of("clean", "--root", folder, device=True)


def test_inventory_and_model_names(output_of: OutputOf, monkeypatch: pytest.MonkeyPatch) -> None:
    actual = machines.cpu_machine()
    poisoned = serde.decode(inventory.Inventory, hostile.poisoned(serde.encode(actual)))
    monkeypatch.setattr(inventory, "collect", lambda: poisoned)
    for device in (False, True):
        output_of("doctor", device=device)
    models = tuple(dataclasses.replace(model, name=hostile.TEXT) for model in catalog.models())
    monkeypatch.setattr(catalog, "models", lambda: models)
    assert hostile.FORGED in output_of("models")


def test_the_errors_of_cells(output_of: OutputOf, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = sweeps.cells(1, ("auto",), ("orin",))
    bad = sweeps.ended(cell, CellState.REFUSED, hostile.HEADER, hostile.HEADER)

    def run(_: Request, follow: Follow) -> Sweep:
        follow(SweepStarted([(hostile.HEADER,)], finished=0, workers=1, dashboard=hostile.HEADER))
        follow(CellStarted(hostile.HEADER, (hostile.HEADER,)))
        follow(CellReturned(hostile.HEADER, (hostile.HEADER,), hostile.HEADER))
        follow(CellEnded(hostile.HEADER, (hostile.HEADER,), CellState.REFUSED, 1.0, hostile.HEADER))
        return sweeps.of([bad])

    monkeypatch.setattr("deploytool.sweeps.run.run", run)
    assert hostile.FORGED in output_of("sweep", "--models", "mobilenet_v1")


@pytest.mark.parametrize("action", list(Action))
def test_what_the_devices_of_a_fleet_answer(
    output_of: OutputOf, action: Action, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fleet.toml").write_text('[devices.one]\nssh = "me@one"\nroot = "/opt/model"\n')
    state = serde.decode(DeviceState, hostile.poisoned(serde.encode(device_state.read(None))))
    document = {"result": hostile.poisoned({"tier": "", "tried": [], "problems": [""]}), "error": hostile.TEXT}
    step = StepResult((hostile.TEXT,), 3, 1.0, document, hostile.TEXT)
    made = DeviceResult(SCHEMA, "one", action, Outcome.FAILED, "0" * 64, hostile.TEXT, hostile.TEXT, 3, (step,))
    made = dataclasses.replace(made, before=state, after=state)

    def act(_: object, request: object, observer: Observer) -> FleetResult:
        observer.say("one", hostile.TEXT)
        observer.doing("one", hostile.TEXT)
        observer.ended(made)
        return FleetResult(action, "0" * 64, (made,))

    for name in ("ask", "act", "deploy"):
        monkeypatch.setattr(f"deploytool.fleet.run.{name}", act)
    bundle = ["bundle"] if action is Action.DEPLOY else []
    assert hostile.FORGED in output_of("fleet", action, *bundle, "--config", str(tmp_path / "fleet.toml"))


def test_every_command_that_prints_foreign_text_is_tested() -> None:
    """A new command must be called in one of these files, or be listed as printing no foreign text."""
    source = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_foreign_*.py"))
    missing = {name for name in app.COMMAND_MODULES if not re.search(rf"[\"' ]{name}[\"' ]", source)}
    assert missing == hostile.WITHOUT_FOREIGN_TEXT
