"""Sends a bundle to a device over ssh: only the files that the device lacks, each hashed there before it is shown."""

from __future__ import annotations

import base64
import json
import logging
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from deploytool import errors, serde
from deploytool.bundle import subset
from deploytool.bundle.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    SIGNATURE_FILE,
    SUBSET_FILE,
    File,
    Manifest,
    all_files,
    manifest_digest,
)
from deploytool.bundle.subset import Subset
from deploytool.errors import BadInput, DeployError, Refused, Unreachable
from deploytool.host import disk, files
from deploytool.host.exception_text import clean
from deploytool.transfer.addresses import Device

Say = Callable[[str], None]

_LOG = logging.getLogger(__name__)
_MARK = b"deploytool:"
_NOISE = 1000  # lines that a shell's start-up files may print before ours
_LONGEST = 4 << 20  # bytes of a line
_BLOCK = 1 << 20
_START = "import sys; exec(compile(sys.stdin.buffer.read(int(sys.argv[1])), 'receiver', 'exec'))"
_PATIENCE, _SLOWEST = 600.0, 64 << 10  # seconds for its answers, bytes a second for files
_AGAIN = "send it again: it goes on where it was cut"


@dataclass(frozen=True)
class SshTarget:
    """How ssh gets in; whatever is empty is left to its own configuration. `python` is the one of the device."""

    port: int | None = None
    identity: Path | None = None
    config: Path | None = None
    python: str = "python3"


@dataclass(frozen=True)
class ShipResult:
    """A bundle on a device: where, how many bytes went and were there already, and whether it was installed there.

    `tier` is what serves there; empty if it was not installed.
    """

    folder: str
    digest: str
    sent: int
    there: int
    left_out: int
    installed: bool
    deploytool: bool
    tier: str


def ship(
    folder: Path,
    manifest: Manifest,
    device: Device,
    door: SshTarget,
    kind: Subset | None,
    *,
    key: Path | None = None,
    install: bool,
    timeout: float | None = None,
    say: Say,
) -> ShipResult:
    """Brings a bundle, or what a device of this kind needs of it, into a root on a device.

    `key` is the file of the public key that must have signed it for the install there. All must be done within
    `timeout` seconds; without one, within ten minutes and as long as its files take at 64 KiB/s. Raises Unreachable if
    it is not or the line is cut, Refused if the device got other bytes, and what the install there raises.
    """
    left_out = subset.omitted_engines(manifest, kind)
    wanted = [file for file in all_files(manifest) if file.path not in left_out]
    with subprocess.Popen(
        _command(device, door), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as line:
        assert line.stdin is not None
        assert line.stdout is not None
        sent: int | None = None
        seconds = timeout or _PATIENCE + sum(file.size for file in wanted) / _SLOWEST
        try:
            with _within(seconds, line, device):
                with suppress(BrokenPipeError):
                    _open(line.stdin, _request(folder, wanted, device, kind, key, install))
                    lacking = _lacking(_answer(line, device))
                    sent = _send(line.stdin, folder, wanted, lacking, say)
                    line.stdin.close()
                end = _answer(line, device)
                if sent is None:
                    raise Unreachable(f"{device.host} closed the line before it had what it lacks", _AGAIN)
        except BaseException:
            line.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                line.stdin.close()
    there = sum(file.size for file in wanted) - sent
    return _told(end, manifest_digest(folder), sent, there, len(left_out), device)


@contextmanager
def _within(seconds: float, line: subprocess.Popen[bytes], device: Device) -> Iterator[None]:
    """Cuts the line if what is done meanwhile takes longer: a device that keeps it open may never say a word."""
    late = threading.Event()

    def cut() -> None:
        late.set()
        line.kill()

    watch = threading.Timer(seconds, cut)
    watch.daemon = True
    watch.start()
    try:
        yield
    except Unreachable as error:
        if late.is_set():
            raise Unreachable(
                f"{device.host} was not done within {seconds:.0f} s", "give it more with --timeout"
            ) from error
        raise
    finally:
        watch.cancel()


def _command(device: Device, door: SshTarget) -> list[str]:
    command = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15"]
    command += ["-F", str(door.config)] if door.config else []
    command += ["-p", str(door.port)] if door.port else []
    command += ["-i", str(door.identity)] if door.identity else []
    size = len(_program())
    return [*command, "--", device.host, f"{shlex.quote(door.python)} -c {shlex.quote(_START)} {size}"]


def _program() -> bytes:
    return Path(__file__).with_name("ssh_receiver.py").read_bytes()


def _request(
    folder: Path, wanted: list[File], device: Device, kind: Subset | None, key: Path | None, install: bool
) -> Mapping[str, serde.Json]:
    beside = {name: folder / name for name in (MANIFEST_FILE, SIGNATURE_FILE) if (folder / name).exists()}
    raw = {name: files.read(path, MAX_MANIFEST_BYTES) for name, path in beside.items()}
    if kind is not None:
        raw[SUBSET_FILE] = serde.text(kind).encode()
    return {
        "root": device.root,
        "digest": manifest_digest(folder),
        "files": [[file.path, file.size, file.sha256] for file in wanted],
        "beside": {name: base64.b64encode(each).decode() for name, each in raw.items()},
        "key": "" if key is None else base64.b64encode(key.read_bytes()).decode(),
        "install": install,
    }


def _open(to: IO[bytes], request: Mapping[str, serde.Json]) -> None:
    to.write(_program())
    to.write(json.dumps(request).encode() + b"\n")
    to.flush()


def _answer(line: subprocess.Popen[bytes], device: Device) -> Mapping[str, Any]:
    """The next line that is ours; what a login prints before is nobody's."""
    assert line.stdout is not None
    for _ in range(_NOISE):
        said = line.stdout.readline(_LONGEST)
        if said.startswith(_MARK):
            with suppress(ValueError):
                found = serde.loads(said[len(_MARK) :])
                if isinstance(found, dict):
                    return _unless_trouble(found, device)
        if not said:
            break
    assert line.stderr is not None
    complained = line.stderr.read(_LONGEST).decode(errors="replace").split("\n")
    complaint = clean(next((text for text in reversed(complained) if text.strip()), ""))  # the last line says what
    raise Unreachable(f"{device.host} does not answer: {complaint or 'the line was cut'}", _AGAIN)


def _unless_trouble(found: Mapping[str, Any], device: Device) -> Mapping[str, Any]:
    if "problem" in found:
        raise Refused(
            f"{device.host}: {clean(str(found['problem']))}",
            "check the root, its rights and the disk, and send it again",
        )
    return found


def _lacking(said: Mapping[str, Any]) -> dict[str, int]:
    try:
        return {str(name): int(begun) for name, begun in said["lacking"]}
    except (KeyError, TypeError, ValueError) as error:
        raise Unreachable(f"the device does not say what it lacks: {error}", _AGAIN) from error


def _send(to: IO[bytes], folder: Path, wanted: list[File], lacking: Mapping[str, int], say: Say) -> int:
    """The bytes that are lacking, in the order of their digests, and how many that were."""
    sent, by_name = 0, {file.sha256: file for file in wanted}
    missing = sorted(set(lacking) & set(by_name))
    say(f"{len(missing)} files, {disk.size(sum(by_name[name].size - lacking[name] for name in missing))} to send")
    for name in missing:
        file, begun = by_name[name], lacking[name]
        with files.open_file(folder / file.path) as opened:
            opened.seek(begun)
            while block := opened.read(_BLOCK):
                to.write(block)
                sent += len(block)
        to.flush()
        _LOG.debug("%s: %s", file.path, disk.size(file.size - begun))
    return sent


def _told(end: Mapping[str, Any], digest: str, sent: int, there: int, left_out: int, device: Device) -> ShipResult:
    install = end.get("install")
    tier = _installed(install, device) if install else ""
    folder, known = str(end.get("folder", "")), bool(end.get("deploytool"))
    return ShipResult(folder, digest, sent, there, left_out, install is not None, known, tier)


def _installed(said: Mapping[str, Any], device: Device) -> str:
    """What serves on the device now; the install's own failure is ours."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        document = serde.loads(said["said"])
        error = document["error"]
        if error:
            kinds = {kind.exit_code: kind for kind in DeployError.__subclasses__()}
            raise kinds.get(error["exit_code"], errors.StageFailed)(
                f"{device.host}: {clean(str(error['problem']))}", clean(str(error["remedy"]))
            )
        return str(document["result"]["verified"]["tier"])
    complaint = clean(" ".join(str(said.get("complained", "")).split()[-40:]))
    raise BadInput(f"the install on {device.host} failed: {complaint}", "see what it says there")
