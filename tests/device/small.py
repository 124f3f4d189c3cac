"""Small bundles for tests that do not run them, and functions that tamper with a bundle."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from deploytool.bundle.manifest import MANIFEST_FILE, File, Role, describe_file, read_manifest, write_manifest
from deploytool.device.verify import Integrity

Tamper = Callable[[Path, random.Random], None]


def small(packed: Path, folder: Path, sequence: int = 3, seed: int = 0) -> Path:
    """A bundle with the manifest of a real one and a few hundred random bytes in each file."""
    rng = random.Random(seed)
    manifest = read_manifest(packed)

    def write_random(path: str, role: Role) -> File:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(rng.randbytes(rng.randint(64, 512)))
        return describe_file(folder, path, role)

    files = tuple(write_random(file.path, file.role) for file in manifest.files)
    engines = tuple(
        dataclasses.replace(engine, file=write_random(engine.file.path, Role.ENGINE)) for engine in manifest.engines
    )
    write_manifest(folder, dataclasses.replace(manifest, sequence=sequence, files=files, engines=engines))
    return folder


def paths(folder: Path) -> list[Path]:
    """Every file but the manifest."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)


def bit(folder: Path, rng: random.Random) -> None:
    path = rng.choice(paths(folder))
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def truncate(folder: Path, rng: random.Random) -> None:
    path = rng.choice(paths(folder))
    path.write_bytes(path.read_bytes()[: -rng.randint(1, 60)])


def append(folder: Path, rng: random.Random) -> None:
    path = rng.choice(paths(folder))
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 60)))


def swap(folder: Path, rng: random.Random) -> None:
    first_path, second_path = rng.sample(paths(folder), 2)
    first_content, second_content = first_path.read_bytes(), second_path.read_bytes()
    first_path.write_bytes(second_content)
    second_path.write_bytes(first_content)


def extra(folder: Path, rng: random.Random) -> None:
    parent = rng.choice([folder, *(path.parent for path in paths(folder))])
    name = rng.choice(["libplugin.so", ".hidden", "numpy.py", "MANIFEST.json", "model.sig.bak", "model.onnx.data"])
    if rng.random() < 0.2:
        (parent / "more").mkdir()
    else:
        (parent / name).write_bytes(rng.randbytes(8))


def missing(folder: Path, rng: random.Random) -> None:
    rng.choice([*paths(folder), folder / MANIFEST_FILE]).unlink()


def rename(folder: Path, rng: random.Random) -> None:
    path = rng.choice(paths(folder))
    path.rename(path.with_name(path.name + rng.choice([".bak", "2", " "])))


def symlink(folder: Path, rng: random.Random) -> None:
    """Replaces a path by a link to the same bytes, which may change after the check."""
    folders = [path for path in folder.iterdir() if path.is_dir()]
    path = rng.choice([*paths(folder), folder / MANIFEST_FILE, *folders])
    target = folder.with_name(f"{folder.name}.linked")
    path.rename(target)
    path.symlink_to(target)


def manifest_bytes(folder: Path, rng: random.Random) -> None:
    path = folder / MANIFEST_FILE
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def manifest_entry(folder: Path, rng: random.Random) -> None:
    """Makes the manifest list other files than there are."""
    path = folder / MANIFEST_FILE
    data = json.loads(path.read_text())
    entry = rng.choice(data["files"])
    edit = rng.choice(["drop", "size", "sha256", "path", "twice"])
    if edit == "drop":
        data["files"].remove(entry)
    elif edit == "size":
        entry["size"] += 1
    elif edit == "sha256":
        entry["sha256"] = rng.randbytes(32).hex()
    elif edit == "path":
        entry["path"] = rng.choice(["../x", "/etc/passwd", "a//b", ".x", "manifest.json", "golden/../x", "", "a\n"])
    else:
        data["files"].append(entry)
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")


def manifest_shape(folder: Path, rng: random.Random) -> None:
    """Makes the manifest malformed, whatever its digest."""
    path = folder / MANIFEST_FILE
    data = json.loads(path.read_text())
    edit = rng.choice(["schema", "unknown", "type", "spaces", "range", "golden", "nothing"])
    if edit == "schema":
        data["schema"] = "deploytool.bundle/9"
    elif edit == "unknown":
        data["plugins"] = ["libplugin.so"]
    elif edit == "type":
        data["sequence"] = str(data["sequence"])
    elif edit == "range":
        data["free"]["batch"]["largest"] = "32"
    elif edit == "golden":
        data["golden"]["path"] = "golden/other.npz"
    text = {"spaces": json.dumps(data), "nothing": "[]"}.get(edit, json.dumps(data, indent=2, sort_keys=True) + "\n")
    path.write_text(text)


def old(folder: Path, rng: random.Random) -> None:
    """Lowers the sequence of a bundle that is valid otherwise."""
    manifest = read_manifest(folder)
    write_manifest(folder, dataclasses.replace(manifest, sequence=rng.randrange(manifest.sequence)))


OF_FILES: tuple[Tamper, ...] = (bit, truncate, append, swap, extra, missing, rename, symlink)
OF_THE_MANIFEST: tuple[Tamper, ...] = (manifest_entry, manifest_shape)
TAMPERS: tuple[Tamper, ...] = (*OF_FILES, *OF_THE_MANIFEST, old)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a bundle."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def restored(clean: dict[str, bytes], folder: Path) -> Path:
    """Restores the folder to its contents before it was tampered with."""
    linked = folder.with_name(f"{folder.name}.linked")
    if linked.is_dir():
        shutil.rmtree(linked)
    linked.unlink(missing_ok=True)
    for path in sorted(folder.rglob("*"), reverse=True):  # only what changed: writing is slow
        if path.is_symlink() or (path.is_file() and path.relative_to(folder).as_posix() not in clean):
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for name, content in clean.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def accept(checked: Integrity) -> None:
    """Accepts a bundle: these bundles have no golden cases to run."""


def make_bundle(packed: Path, folder: Path, sequence: int, seed: int) -> Path:
    folder.mkdir(parents=True)
    return small(packed, folder, sequence, seed)
