"""Sends a bundle to a device over ssh: the files that the device lacks, which hashes them before it publishes them."""

from __future__ import annotations

import base64
import json
import logging
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from deploytool.errors import BadInput, DeployError, DeviceBusy, Refused, Unreachable
from deploytool.host import disk, files
from deploytool.host.exception_text import clean
from deploytool.transfer import login
from deploytool.transfer.addresses import Device

Say = Callable[[str], None]

_LOG = logging.getLogger(__name__)
MARK = b"deploytool:"  # begins an answer; other lines are what a login prints
_MOST_LINES = 1000  # that a shell's start-up files may print first
_LONGEST = 4 << 20  # bytes of a line
_BLOCK = 1 << 20
_START = "import sys; exec(compile(sys.stdin.buffer.read(int(sys.argv[1])), 'receiver', 'exec'))"
_ANSWER_SECONDS, _SLOWEST = 600.0, 64 << 10  # for all answers; bytes a second for files
_AGAIN = "ship it again: the transfer resumes"


@dataclass(frozen=True)
class SshTarget:
    """Options of ssh; where empty, its own configuration decides. `python` is the interpreter on the device.

    A device that does not answer within `connect_s` seconds is given up.
    """

    port: int | None = None
    identity: Path | None = None
    config: Path | None = None
    python: str = "python3"
    connect_s: int = 30


@dataclass(frozen=True)
class ShipResult:
    """A bundle on a device: its folder, the bytes that were sent and were there already, whether it was installed.

    `tier` is the backend that serves there; empty if it was not installed.
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
    options: SshTarget,
    kind: Subset | None,
    *,
    only: Sequence[File] = (),
    key: Path | None = None,
    install: bool,
    timeout: float | None = None,
    say: Say,
) -> ShipResult:
    """Sends the subset `kind` of a bundle, all of it, or `only` some of its files to an install root on a device.

    `key` is the file of the public key that the install there requires a signature of. All must end within `timeout`
    seconds; the default is ten minutes plus the time of the files at 64 KiB/s. Raises Unreachable if it does not or
    the connection is interrupted, Refused if the device got other bytes, and the error of the install there.
    """
    left_out = subset.omitted_engines(manifest, kind)
    wanted = list(only) or [file for file in all_files(manifest) if file.path not in left_out]
    with subprocess.Popen(
        _command(device, options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        sent: int | None = None
        seconds = timeout or _ANSWER_SECONDS + sum(file.size for file in wanted) / _SLOWEST
        try:
            with _within(seconds, child, device):
                with suppress(BrokenPipeError):
                    _send_request(child.stdin, _request(folder, wanted, device, kind, key, install))
                    lacking = _lacking(_answer(child, device), wanted)
                    sent = _send(child.stdin, folder, wanted, lacking, say)
                    child.stdin.close()
                end = _answer(child, device)
                if sent is None:
                    raise Unreachable(f"{device.host} closed the connection before it had all files", _AGAIN)
        except BaseException:
            child.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                child.stdin.close()
    there = sum(file.size for file in wanted) - sent
    return _result(end, manifest_digest(folder), sent, there, len(left_out), device)


@contextmanager
def _within(seconds: float, child: subprocess.Popen[bytes], device: Device) -> Iterator[None]:
    """Kills ssh after `seconds`, because a device may keep the connection open without answering."""
    late = threading.Event()

    def cut() -> None:
        late.set()
        child.kill()

    watch = threading.Timer(seconds, cut)
    watch.daemon = True
    watch.start()
    try:
        yield
    except Unreachable as error:
        if late.is_set():
            raise Unreachable(
                f"{device.host} did not finish within {seconds:.0f} s", "allow more with --timeout"
            ) from error
        raise
    finally:
        watch.cancel()


def _command(device: Device, options: SshTarget) -> list[str]:
    return command(device.host, options, _program())


def command(host: str, options: SshTarget, program: bytes) -> list[str]:
    """The call of ssh that runs a Python program on a device; the caller writes the program to its stdin first."""
    command = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15"]
    command += ["-o", f"ConnectTimeout={options.connect_s}"]
    command += ["-F", str(options.config)] if options.config else []
    command += ["-p", str(options.port)] if options.port else []
    command += ["-i", str(options.identity)] if options.identity else []
    return [*command, "--", host, f"{shlex.quote(options.python)} -c {shlex.quote(_START)} {len(program)}"]


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
        "beside": {name: base64.b64encode(content).decode() for name, content in raw.items()},
        "key": "" if key is None else base64.b64encode(key.read_bytes()).decode(),
        "install": install,
    }


def _send_request(to: IO[bytes], request: Mapping[str, serde.Json]) -> None:
    to.write(_program())
    to.write(json.dumps(request).encode() + b"\n")
    to.flush()


def _answer(child: subprocess.Popen[bytes], device: Device) -> Mapping[str, Any]:
    """The next answer of the receiver; lines that the login prints before it are skipped.

    Raises Refused for a problem that the receiver reports, BadInput for a refused login, and Unreachable if the
    connection closes.
    """
    assert child.stdout is not None
    for _ in range(_MOST_LINES):
        line = child.stdout.readline(_LONGEST)
        if line.startswith(MARK):
            with suppress(ValueError):
                answer = serde.loads(line[len(MARK) :])
                if isinstance(answer, dict):
                    return _raise_problem(answer, device)
        if not line:
            break
    else:
        child.kill()  # it would print on, and never close its stderr
    assert child.stderr is not None
    errors_of_ssh = child.stderr.read(_LONGEST).decode(errors="replace").split("\n")
    last_line = clean(next((text for text in reversed(errors_of_ssh) if text.strip()), ""))
    raise login.failure(device.host, last_line, _AGAIN)


def _raise_problem(answer: Mapping[str, Any], device: Device) -> Mapping[str, Any]:
    """Returns an answer, or raises Refused if it reports a problem."""
    if "problem" in answer:
        problem = f"{device.host}: {clean(str(answer['problem']))}"
        if answer.get("busy") is True:
            raise DeviceBusy(problem, "wait until that has ended, and ship it again")
        raise Refused(problem, "check the root, its permissions and the disk, and ship it again")
    return answer


def _lacking(answer: Mapping[str, Any], wanted: Sequence[File]) -> dict[str, int]:
    """The digests of the files that the device lacks, and how many bytes of each it has."""
    sizes = {file.sha256: file.size for file in wanted}
    try:
        lacking = {str(name): int(offset) for name, offset in answer["lacking"]}
        if not all(0 <= offset <= sizes[name] for name, offset in lacking.items()):
            raise ValueError("an offset is outside of its file")
        return lacking
    except (KeyError, TypeError, ValueError) as error:
        raise Unreachable(f"the device sent an invalid list of files: {error}", _AGAIN) from error


def _send(to: IO[bytes], folder: Path, wanted: list[File], lacking: Mapping[str, int], say: Say) -> int:
    """Sends the missing bytes, in the order of the digests, and returns their number."""
    sent, by_name = 0, {file.sha256: file for file in wanted}
    missing = sorted(lacking)
    say(f"{len(missing)} files, {disk.size(sum(by_name[name].size - lacking[name] for name in missing))} to send")
    for name in missing:
        file, offset = by_name[name], lacking[name]
        with files.open_file(folder / file.path) as opened:
            opened.seek(offset)
            while block := opened.read(_BLOCK):
                to.write(block)
                sent += len(block)
        to.flush()
        _LOG.debug("%s: %s", file.path, disk.size(file.size - offset))
    return sent


def _result(end: Mapping[str, Any], digest: str, sent: int, there: int, left_out: int, device: Device) -> ShipResult:
    install = end.get("install")
    tier = _installed(install, device) if install else ""
    folder, known = str(end.get("folder", "")), bool(end.get("deploytool"))
    return ShipResult(folder, digest, sent, there, left_out, install is not None, known, tier)


def _installed(install: Mapping[str, Any], device: Device) -> str:
    """The backend that serves on the device; raises the error that the install there reported."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        document = serde.loads(install["said"])
        error = document["error"]
        if error:
            kinds = {kind.exit_code: kind for kind in DeployError.__subclasses__()}
            raise kinds.get(error["exit_code"], errors.StageFailed)(
                f"{device.host}: {clean(str(error['problem']))}", clean(str(error["remedy"]))
            )
        return str(document["result"]["verified"]["tier"])
    stderr = clean(" ".join(str(install.get("complained", "")).split()[-40:]))
    raise BadInput(f"the install on {device.host} failed: {stderr}", "run the install there to see its output")
