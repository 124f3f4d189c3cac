"""The program that ssh starts on a device: takes the files it lacks, shows the bundle when it is whole, installs it.

It travels as source and needs Python 3.8 there and nothing else, so it imports nothing of deploytool.
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
except ImportError:  # as on Windows: there the rename at the end decides alone
    fcntl = None  # type: ignore[assignment]

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_HEX = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20
_TREE, _INSTALLING = "tree", ".installing-"
_INSTALL = """
import sys
sys.path = [place for place in sys.path if place]  # the folder one logs in to is no place to import from
from deploytool.device.__main__ import main
main()
"""
_BESIDE = ("manifest.json", "model.sig", "subset.json")


class Failure(Exception):
    """What is said to whoever ships, in one line."""


def main() -> None:
    """A line that says what comes, a line back that says what is lacking, the bytes, and a line at the end."""
    asked: Any = sys.stdin.buffer
    try:
        _answer(_received(json.loads(asked.readline()), asked))
    except Failure as trouble:
        _answer({"problem": str(trouble)})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        _answer({"problem": "what was asked for makes no sense"})
    except OSError as error:
        _answer({"problem": f"{error.filename or 'what is sent'} cannot be written: {error.strerror}"})


def _answer(what: dict[str, Any]) -> None:
    os.write(1, b"deploytool:" + json.dumps(what).encode() + b"\n")


def _received(request: dict[str, Any], asked: BinaryIO) -> dict[str, Any]:
    digest, listed = request["digest"], request["files"]
    if not _HEX.fullmatch(digest) or not all(
        _PATH.fullmatch(path) and _HEX.fullmatch(name) for path, _, name in listed
    ):
        raise Failure("the list of files makes no sense")
    if not set(request["beside"]) <= set(_BESIDE) or not all(type(size) is int and size >= 0 for _, size, _ in listed):
        raise Failure("the list of files makes no sense")
    beside = {name: base64.b64decode(raw) for name, raw in request["beside"].items()}
    if hashlib.sha256(beside["manifest.json"]).hexdigest() != digest:
        raise Failure("the manifest came with other bytes")
    home, key = Path(request["root"]) / "received", base64.b64decode(request["key"])
    installs = request["install"] and importlib.util.find_spec("deploytool") is not None
    place = home / (f"{_INSTALLING}{os.getpid()}" if installs else digest)  # nobody else looks into one of our own
    stage = home / ".incoming"
    stage.mkdir(parents=True, exist_ok=True)
    if stage.is_symlink() or home.is_symlink():
        raise Failure(f"{stage} is a link")
    lock = os.open(str(stage / "lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _gather(home, stage, {name: size for _, size, name in listed}, asked)
        _assemble(stage, listed, beside)
        _sweep(home)
        _show(stage, place)
    except BlockingIOError:
        raise Failure(f"somebody else is sending to {home}") from None
    finally:
        os.close(lock)
    if not installs:
        return {"folder": str(place), "deploytool": importlib.util.find_spec("deploytool") is not None}
    return _installed(request, place, home / digest, key)


def _sweep(home: Path) -> None:
    """Takes away what killed installs left, whose files are in the new bundle by now if they are of any use."""
    for left in home.glob(f"{_INSTALLING}*"):
        pid = left.name[len(_INSTALLING) :]
        if os.name == "posix" and pid.isdigit() and not _lives(int(pid)):
            shutil.rmtree(str(left), ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def _gather(home: Path, stage: Path, wanted: dict[str, int], asked: BinaryIO) -> None:
    """Puts every file into the staging folder under its digest: from here where it is here, else from the line."""
    known, lacking = _known(home.parent), {}
    for name, size in sorted(wanted.items()):
        to = stage / name
        if not _whole(to, size, name) and not any(_copied(path, to, size, name) for path in known.get(name, ())):
            part = to.with_suffix(".part")
            begun = part.stat().st_size if part.exists() else 0
            if begun > size:
                part.unlink()
            lacking[name] = begun if begun <= size else 0
    needed, free = sum(wanted[name] - begun for name, begun in lacking.items()), shutil.disk_usage(str(stage)).free
    if needed > free:
        raise Failure(f"{home} has {free / 1e6:.0f} MB free, and what is sent takes {needed / 1e6:.0f} MB")
    _answer({"lacking": sorted(lacking.items())})
    for name in sorted(lacking):
        _take(asked, stage / name, wanted[name], name)


def _known(root: Path) -> dict[str, list[Path]]:
    """Where files lie here, by the digest that a manifest gives them."""
    known: dict[str, list[Path]] = {}
    for manifest in [*root.glob("bundles/*/manifest.json"), *root.glob("received/*/manifest.json")]:
        with suppress(OSError, ValueError, TypeError, KeyError):
            told = json.loads(manifest.read_bytes())
            for file in told["files"] + [engine["file"] for engine in told["engines"]]:
                if _PATH.fullmatch(file["path"]):
                    known.setdefault(file["sha256"], []).append(manifest.parent / file["path"])
    return known


def _whole(path: Path, size: int, name: str) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    total = hashlib.sha256()
    with path.open("rb") as opened:
        for block in iter(lambda: opened.read(_BLOCK), b""):
            total.update(block)
    return total.hexdigest() == name


def _copied(path: Path, to: Path, size: int, name: str) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    shutil.copyfile(str(path), str(to))
    if _whole(to, size, name):
        return True
    to.unlink()
    return False


def _take(asked: Any, to: Path, size: int, name: str) -> None:
    """The rest of one file; whatever comes stays for the next try, unless the whole has another digest."""
    part, total, seen = to.with_suffix(".part"), hashlib.sha256(), 0
    with part.open("ab+") as opened:
        opened.seek(0)
        for block in iter(lambda: opened.read(_BLOCK), b""):
            total.update(block)
            seen += len(block)
        while seen < size:
            block = asked.read1(min(_BLOCK, size - seen))
            if not block:
                raise Failure("the line was cut")
            total.update(block)
            opened.write(block)
            seen += len(block)
        opened.flush()
        os.fsync(opened.fileno())
    if total.hexdigest() != name:
        part.unlink()
        raise Failure("a file came with other bytes than its digest says")
    part.rename(to)


def _assemble(stage: Path, listed: list[tuple[str, int, str]], beside: dict[str, bytes]) -> None:
    """The bundle's folder from the files that were gathered."""
    tree = stage / _TREE
    shutil.rmtree(str(tree), ignore_errors=True)
    tree.mkdir()
    names = [name for _, _, name in listed]
    for place, (path, _, name) in enumerate(listed):
        to = tree / path
        to.parent.mkdir(parents=True, exist_ok=True)
        if name in names[place + 1 :]:
            shutil.copyfile(str(stage / name), str(to))
        else:
            (stage / name).rename(to)
    for name, raw in beside.items():
        (tree / name).write_bytes(raw)
    for path, size, name in listed:
        if not _whole(tree / path, size, name):
            raise Failure(f"{path} does not keep its bytes on this disk")


def _show(stage: Path, place: Path) -> None:
    """Waits until all of it is on the disk, and renames it into its place."""
    tree = stage / _TREE
    for path in [*tree.rglob("*"), tree]:
        _settle(path)
    shutil.rmtree(str(place), ignore_errors=True)
    tree.rename(place)
    _settle(place.parent)
    shutil.rmtree(str(stage), ignore_errors=True)


def _settle(path: Path) -> None:
    if fcntl is None:
        return  # Windows opens no folders, and syncs no file that is open for reading
    opened = os.open(str(path), os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)


def _installed(request: dict[str, Any], place: Path, shown: Path, pem: bytes) -> dict[str, Any]:
    """What the install said; a bundle that it did not take is shown, for whoever wants to look into it."""
    command = [sys.executable, "-c", _INSTALL, "install", str(place), "--root", request["root"], "--json"]
    with tempfile.NamedTemporaryFile(prefix=".key-", suffix=".pem", dir=str(place.parent)) as key:
        if pem:
            key.write(pem)
            key.flush()
            command += ["--require-signature", key.name]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    gone = place if done.returncode == 0 else shown  # the install has a copy of its own
    shutil.rmtree(str(gone), ignore_errors=True)
    if done.returncode:
        place.rename(shown)
    texts = (each.decode(errors="replace") for each in (done.stdout, done.stderr[-2000:]))
    said, complained = (text.replace(str(place), str(shown)) for text in texts)
    return {"folder": str(shown), "deploytool": True, "install": {"said": said, "complained": complained}}


if __name__ == "__main__":
    main()
