"""The program that ssh starts on a device: receives missing files, publishes the complete bundle, and installs it.

It is sent as source and needs only Python 3.8 there, so it imports nothing of deploytool.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows: without a lock, the rename at the end decides
    fcntl = None  # type: ignore[assignment]

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_HEX = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20
_TREE, _INSTALLING = "tree", ".installing-"
_INSTALL = """
import sys
sys.path = [entry for entry in sys.path if entry]  # imports nothing from the folder of the login
from deploytool.device.__main__ import main
main()
"""
_BESIDE = ("manifest.json", "model.sig", "subset.json")


class Failure(Exception):
    """A problem that is reported to the sender in one line."""


class Busy(Failure):
    """Another process receives for the same root."""


def main() -> None:
    """Reads a request, answers which files are missing, reads their bytes, and answers with the result."""
    stream: Any = sys.stdin.buffer
    try:
        _answer(_receive(json.loads(stream.readline()), stream))
    except Failure as failure:
        _answer({"problem": str(failure), "busy": isinstance(failure, Busy)})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        _answer({"problem": "the request is invalid"})
    except OSError as error:
        _answer({"problem": f"{error.filename or 'a file'} cannot be written: {error.strerror}"})


def _answer(document: dict[str, Any]) -> None:
    os.write(1, b"deploytool:" + json.dumps(document).encode() + b"\n")


def _receive(request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    digest, listed = request["digest"], request["files"]
    if not _HEX.fullmatch(digest) or not all(
        _PATH.fullmatch(path) and _HEX.fullmatch(name) for path, _, name in listed
    ):
        raise Failure("the list of files is invalid")
    if not set(request["beside"]) <= set(_BESIDE) or not all(type(size) is int and size >= 0 for _, size, _ in listed):
        raise Failure("the list of files is invalid")
    beside = {name: base64.b64decode(raw) for name, raw in request["beside"].items()}
    if hashlib.sha256(beside["manifest.json"]).hexdigest() != digest:
        raise Failure("the manifest does not have its digest")
    home, key = Path(request["root"]) / "received", base64.b64decode(request["key"])
    installs = request["install"] and importlib.util.find_spec("deploytool") is not None
    target = home / (f"{_INSTALLING}{os.getpid()}" if installs else digest)  # private to this process until installed
    stage = home / ".incoming"
    stage.mkdir(parents=True, exist_ok=True)
    if stage.is_symlink() or home.is_symlink():
        raise Failure(f"{stage} is a symbolic link")
    lock = os.open(str(stage / "lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_published(target, listed, beside):
            _answer({"lacking": []})
            shutil.rmtree(str(stage), ignore_errors=True)
        else:
            _gather(home, stage, {name: size for _, size, name in listed}, stream)
            _assemble(stage, listed, beside)
            _remove_abandoned(home)
            _publish(stage, target)
    except BlockingIOError:
        raise Busy(f"another process is sending to {home}") from None
    finally:
        os.close(lock)
    if not installs:
        return {"folder": str(target), "deploytool": importlib.util.find_spec("deploytool") is not None}
    return _install(request, target, home / digest, key)


def _is_published(target: Path, listed: list[tuple[str, int, str]], beside: dict[str, bytes]) -> bool:
    """Whether the folder is there with exactly these files: then it stays, as a job may be at work on it."""
    present = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    return (
        present == {path for path, _, _ in listed} | set(beside)
        and not any((target / path).is_symlink() for path in present)
        and all((target / name).read_bytes() == raw for name, raw in beside.items())
        and all(_is_complete(target / path, size, name) for path, size, name in listed)
    )


def _remove_abandoned(home: Path) -> None:
    """Removes the folders of killed installs; `_gather` has copied the files of them that the new bundle needs."""
    for folder in home.glob(f"{_INSTALLING}*"):
        pid = folder.name[len(_INSTALLING) :]
        if os.name == "posix" and pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(str(folder), ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # a process of another user
    return True


def _gather(home: Path, stage: Path, wanted: dict[str, int], stream: BinaryIO) -> None:
    """Puts every file into the staging folder under its digest, from this machine or else from the sender."""
    known, lacking = _index_files(home.parent), {}
    for name, size in sorted(wanted.items()):
        to = stage / name
        if not _is_complete(to, size, name) and not any(_copy(path, to, size, name) for path in known.get(name, ())):
            part = to.with_suffix(".part")
            offset = part.stat().st_size if part.exists() else 0
            if offset > size:
                part.unlink()
            lacking[name] = offset if offset <= size else 0
    needed, free = sum(wanted[name] - offset for name, offset in lacking.items()), shutil.disk_usage(str(stage)).free
    if needed > free:
        raise Failure(f"{home} has {free / 1e6:.0f} MB free, and the missing files take {needed / 1e6:.0f} MB")
    _answer({"lacking": sorted(lacking.items())})
    for name in sorted(lacking):
        _receive_file(stream, stage / name, wanted[name], name)


def _index_files(root: Path) -> dict[str, list[Path]]:
    """The paths of files on this device by the digest that a manifest states."""
    known: dict[str, list[Path]] = {}
    for manifest in [*root.glob("bundles/*/manifest.json"), *root.glob("received/*/manifest.json")]:
        with suppress(OSError, ValueError, TypeError, KeyError):
            document = json.loads(manifest.read_bytes())
            engines = [engine["file"] for engine in document["engines"]]
            for file in document["files"] + engines + document.get("tool", []):
                if _PATH.fullmatch(file["path"]):
                    known.setdefault(file["sha256"], []).append(manifest.parent / file["path"])
    return known


def _is_complete(path: Path, size: int, name: str) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        for block in iter(lambda: opened.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest() == name


def _copy(path: Path, to: Path, size: int, name: str) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    shutil.copyfile(str(path), str(to))
    if _is_complete(to, size, name):
        return True
    to.unlink()
    return False


def _receive_file(stream: Any, to: Path, size: int, name: str) -> None:
    """Receives the rest of a file; a partial file stays for the next attempt, one with another digest is removed."""
    part, digest, length = to.with_suffix(".part"), hashlib.sha256(), 0
    with part.open("ab+") as opened:
        opened.seek(0)
        for block in iter(lambda: opened.read(_BLOCK), b""):
            digest.update(block)
            length += len(block)
        while length < size:
            block = stream.read1(min(_BLOCK, size - length))
            if not block:
                raise Failure("the connection was closed")
            digest.update(block)
            opened.write(block)
            length += len(block)
        opened.flush()
        os.fsync(opened.fileno())
    if digest.hexdigest() != name:
        part.unlink()
        raise Failure("a file does not have its digest")
    part.rename(to)


def _assemble(stage: Path, listed: list[tuple[str, int, str]], beside: dict[str, bytes]) -> None:
    """Builds the bundle's folder from the files that were gathered."""
    tree = stage / _TREE
    shutil.rmtree(str(tree), ignore_errors=True)
    tree.mkdir()
    names = [name for _, _, name in listed]
    for index, (path, _, name) in enumerate(listed):
        to = tree / path
        to.parent.mkdir(parents=True, exist_ok=True)
        if name in names[index + 1 :]:
            shutil.copyfile(str(stage / name), str(to))
        else:
            (stage / name).rename(to)
    for name, raw in beside.items():
        (tree / name).write_bytes(raw)
    for path, size, name in listed:
        if not _is_complete(tree / path, size, name):
            raise Failure(f"{path} is corrupt on this disk")


def _publish(stage: Path, target: Path) -> None:
    """Syncs the bundle to the disk, and renames its folder to `target`."""
    tree = stage / _TREE
    for path in [*tree.rglob("*"), tree]:
        _sync(path)
    shutil.rmtree(str(target), ignore_errors=True)
    tree.rename(target)
    _sync(target.parent)
    shutil.rmtree(str(stage), ignore_errors=True)


def _sync(path: Path) -> None:
    if fcntl is None:
        return  # Windows cannot open folders, nor sync a file that is open for reading
    opened = os.open(str(path), os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)


def _install(request: dict[str, Any], folder: Path, published: Path, pem: bytes) -> dict[str, Any]:
    """Installs a bundle and returns the output; a bundle that cannot be installed is published for inspection."""
    command = [sys.executable, "-c", _INSTALL, "install", str(folder), "--root", request["root"], "--json"]
    with tempfile.NamedTemporaryFile(prefix=".key-", suffix=".pem", dir=str(folder.parent)) as key:
        if pem:
            key.write(pem)
            key.flush()
            command += ["--require-signature", key.name]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    obsolete = folder if done.returncode == 0 else published  # the install has its own copy
    shutil.rmtree(str(obsolete), ignore_errors=True)
    if done.returncode:
        folder.rename(published)
    outputs = (output.decode(errors="replace") for output in (done.stdout, done.stderr[-2000:]))
    stdout, stderr = (output.replace(str(folder), str(published)) for output in outputs)
    return {"folder": str(published), "deploytool": True, "install": {"said": stdout, "complained": stderr}}


if __name__ == "__main__":
    main()
