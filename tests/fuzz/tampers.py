"""Tampers with a bundle's folder, grouped by what is changed: files, the manifest or the signature."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from deploytool import serde
from deploytool.bundle.manifest import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    SUBSET_FILE,
    Role,
    describe_file,
    read_manifest,
    write_manifest,
)
from tests.device import small
from tests.device.keys import edit_envelope, flip_bit_of_base64
from tests.fuzz import artifacts, values
from tests.fuzz.artifacts import Artifacts

Tamper = Callable[[Path, random.Random, Artifacts], None]

FILES, MANIFEST, SIGNATURE = "files", "manifest", "signature"
_SUFFIXES = (".bak", " ", "\u200b", "\n", "\x1b[31m", "~", ".ONNX", "\udcff")


def _adapt(tamper: small.Tamper) -> Tamper:
    def adapted(folder: Path, rng: random.Random, _: Artifacts) -> None:
        tamper(folder, rng)

    adapted.__name__ = tamper.__name__
    return adapted


def _random_file(folder: Path, rng: random.Random) -> Path:
    return rng.choice(small.paths(folder))


def emptied(folder: Path, rng: random.Random, _: Artifacts) -> None:
    _random_file(folder, rng).write_bytes(b"")


def zeroed(folder: Path, rng: random.Random, _: Artifacts) -> None:
    path = _random_file(folder, rng)
    path.write_bytes(bytes(path.stat().st_size))


def holes(folder: Path, rng: random.Random, _: Artifacts) -> None:
    """Replaces a file by a huge sparse one."""
    path = rng.choice([*small.paths(folder), folder / MANIFEST_FILE, folder / "more.bin"])
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(rng.choice((5 << 20, 3 << 30, 1 << 40)))


def named_twice(folder: Path, rng: random.Random, _: Artifacts) -> None:
    """Adds a file whose name differs in case only, which case-insensitive file systems treat as the same."""
    path = _random_file(folder, rng)
    other = path.with_name(path.name.upper() if path.name.upper() != path.name else path.name.title())
    other.write_bytes(rng.randbytes(9))


def oddly_named(folder: Path, rng: random.Random, _: Artifacts) -> None:
    path = _random_file(folder, rng)
    path.rename(path.with_name(path.name + rng.choice(_SUFFIXES)))


def folder_for_file(folder: Path, rng: random.Random, _: Artifacts) -> None:
    path = rng.choice([*small.paths(folder), folder / MANIFEST_FILE])
    path.unlink()
    path.mkdir()
    if rng.random() < 0.5:
        (path / path.name).write_bytes(b"x")


def file_for_folder(folder: Path, rng: random.Random, _: Artifacts) -> None:
    path = rng.choice([path for path in folder.iterdir() if path.is_dir()])
    shutil.rmtree(path)
    path.write_bytes(b"x")


def linked_away(folder: Path, rng: random.Random, _: Artifacts) -> None:
    """Replaces a file or folder by a link to the outside, to a missing path or to itself."""
    path = rng.choice([*small.paths(folder), folder / MANIFEST_FILE, *folder.iterdir()])
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    victim = folder.parent / "victim"
    elsewhere = ("/etc/passwd", "/dev/zero", path.name, "../..", "/proc/self/mem")
    path.symlink_to(rng.choice((victim, victim / "file", *elsewhere)))


def more_links(folder: Path, rng: random.Random, _: Artifacts) -> None:
    victim = folder.parent / "victim"
    rng.choice([folder, _random_file(folder, rng).parent]).joinpath("more").symlink_to(
        rng.choice((victim, "..", "nowhere"))
    )


def all_linked(folder: Path, rng: random.Random, _: Artifacts) -> None:
    """Replaces the folder by a link to a copy with one changed bit."""
    small.bit(folder, rng)
    moved = folder.parent / f"{folder.name}.linked"
    folder.rename(moved)
    folder.symlink_to(moved)


def pipe(folder: Path, rng: random.Random, _: Artifacts) -> None:
    """Replaces a file by a named pipe, or adds one; reading it would block."""
    path = rng.choice([*small.paths(folder), folder / MANIFEST_FILE, folder / "more"])
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(folder: Path, rng: random.Random, _: Artifacts) -> None:
    path = rng.choice([*small.paths(folder), folder / "more"])
    content = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, rng.choice((3, 5, 9))))
    except OSError:  # only root can create devices
        path.write_bytes(content + b"x")


def deep(folder: Path, rng: random.Random, _: Artifacts) -> None:
    """Adds deeply nested folders."""
    deepest = folder / "golden"
    for _level in range(rng.choice((3, 40, 300))):
        deepest = deepest / "d"
    with suppress(OSError):
        deepest.mkdir(parents=True)
        return
    (folder / "d").mkdir()


def crowded(folder: Path, rng: random.Random, _: Artifacts) -> None:
    for number in range(rng.choice((2, 500))):
        (folder / f"more{number}").write_bytes(b"")


def only_others(folder: Path, rng: random.Random, _: Artifacts) -> None:
    """Adds a subset document, which permits missing files, and removes a file."""
    subset = {
        "target": rng.choice(("orin", "\x1b[1m", "../..", "a" * 70)),
        "capability": rng.choice(("8.7", "8.9", "")),
    }
    text = serde.text(subset)
    (folder / SUBSET_FILE).write_text(rng.choice((text, text * 2, "{}", text.replace("8", "9"))), encoding="utf-8")
    _random_file(folder, rng).unlink(missing_ok=True)


def _edit_manifest(edit: Callable[[bytes, random.Random], bytes]) -> Tamper:
    def edited(folder: Path, rng: random.Random, _: Artifacts) -> None:
        path = folder / MANIFEST_FILE
        path.write_bytes(edit(path.read_bytes(), rng))

    edited.__name__ = f"manifest_{edit.__name__}"
    return edited


def manifest_to_fit(folder: Path, rng: random.Random, _: Artifacts) -> None:
    """Changes a file and updates the manifest: only a signature or a digest can detect it."""
    path = _random_file(folder, rng)
    path.write_bytes(values.corrupt(path.read_bytes(), rng))
    with suppress(OSError, ValueError):
        artifacts.update_manifest(folder)


def manifest_with_more(folder: Path, rng: random.Random, _: Artifacts) -> None:
    """Adds a file that the manifest lists."""
    manifest = read_manifest(folder)
    name = rng.choice(("libplugin.so", "golden/more.npz", "models/x/1/model.onnx", "numpy.py"))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    extra = describe_file(folder, name, Role.GRAPH)
    write_manifest(folder, replace(manifest, files=(*manifest.files, extra)))


def manifest_lowered(folder: Path, rng: random.Random, _: Artifacts) -> None:
    """Lowers the sequence, as in an older valid bundle."""
    write_manifest(folder, replace(read_manifest(folder), sequence=rng.randrange(artifacts.SEQUENCE)))


def manifest_renamed(folder: Path, rng: random.Random, _: Artifacts) -> None:
    """Changes a path in the manifest, also to a path outside the bundle."""
    path = folder / MANIFEST_FILE
    data = json.loads(path.read_text())
    entry = rng.choice(data["files"])
    paths = (
        "../victim/file",
        "/etc/passwd",
        "a/../../x",
        "golden\\x",
        "a\0",
        "C:x",
        "./x",
        "manifest.json",
        "model.sig",
    )
    new = rng.choice(paths)
    text = json.dumps(data).replace(json.dumps(entry["path"]), json.dumps(new))
    path.write_text(json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def manifest_foreign_values(folder: Path, rng: random.Random, _: Artifacts) -> None:
    """Sets manifest values that are valid but make no sense for the model."""
    path = folder / MANIFEST_FILE
    data = json.loads(path.read_text())
    large = rng.choice((0, -1, 1 << 20, (1 << 31) - 1, 1 << 40, 10**30))
    edits: list[Callable[[], object]] = [
        lambda: data["free"]["batch"].update(smallest=large, typical=large, largest=large),
        lambda: data["inputs"][0].update(shape=["batch", 3, large, large]),
        lambda: data["inputs"][0].update(dtype=rng.choice(("float64", "object", "S9", "V1000000000", "no", "int8"))),
        lambda: data["outputs"][0].update(name=rng.choice(values.TEXTS)),
        lambda: data.update(classes=[rng.choice(("cat", "\x1b[1m", "")) for _ in range(rng.choice((1, 10, 5000)))]),
        lambda: data["preprocessing"].update(crop=rng.choice((4096, 4097, [4096, 1], -1)), resize=4096),
        lambda: data["preprocessing"].update(std=[5e-324], mean=[1e308], scale=1e308),
        lambda: data["preprocessing"].update(interpolation=rng.choice(values.TEXTS)),
        lambda: data["golden"].update(cases=large),
        lambda: data.update(sequence=large),
        lambda: data.update(name=rng.choice(values.TEXTS)),
        lambda: data["tolerances"]["fp32"].update(rng.choice(({"max_error": 1e308}, {"snr_db": -1e308}))),
        lambda: data["engines"][0].update(version=rng.choice(values.TEXTS), cuda=rng.choice(values.TEXTS)),
        lambda: data["graphs"][0].update(io=rng.choice(("fp16", "x")), precision=rng.choice(("fp16", "x"))),
    ]
    for edit in rng.sample(edits, rng.choice((1, 1, 2))):
        edit()
    path.write_bytes(values.to_json(data))


def signature_bits(folder: Path, rng: random.Random, _: Artifacts) -> None:
    path = folder / SIGNATURE_FILE
    path.write_bytes(values.corrupt(path.read_bytes(), rng))


def signature_values(folder: Path, rng: random.Random, _: Artifacts) -> None:
    path = folder / SIGNATURE_FILE
    path.write_bytes(values.tamper(path.read_bytes(), rng))


def signature_inside(folder: Path, rng: random.Random, _: Artifacts) -> None:
    """Changes the encoded content of the signature; the encoding stays valid."""

    def edit(envelope: dict[str, object]) -> None:
        if rng.random() < 0.3:
            signatures = envelope["signatures"]
            assert isinstance(signatures, list)
            sig = signatures[0]["sig"]
            signatures[0]["sig"] = rng.choice((flip_bit_of_base64(sig, rng), "", "AA==", sig[:-4]))
            return
        payload = base64.b64decode(str(envelope["payload"]))
        envelope["payload"] = base64.b64encode(values.tamper(payload, rng)).decode()

    edit_envelope(folder, edit)


def signature_gone(folder: Path, rng: random.Random, _: Artifacts) -> None:
    (folder / SIGNATURE_FILE).unlink()


def signature_of_others(folder: Path, rng: random.Random, original: Artifacts) -> None:
    shutil.copy(original.theirs, folder / SIGNATURE_FILE)


def _bytes(raw: bytes, rng: random.Random) -> bytes:
    return values.corrupt(raw, rng)


def _values(raw: bytes, rng: random.Random) -> bytes:
    return values.to_json(values.edit_values(json.loads(raw), rng))


TAMPERS: Mapping[str, tuple[Tamper, ...]] = {
    FILES: (
        *map(_adapt, (small.bit, small.truncate, small.append, small.swap, small.extra, small.missing)),
        *map(_adapt, (small.rename, small.symlink)),
        *(emptied, zeroed, holes, named_twice, oddly_named, folder_for_file, file_for_folder, linked_away, more_links),
        *(all_linked, pipe, device, deep, crowded, only_others),
    ),
    MANIFEST: (
        *(_edit_manifest(_bytes), _edit_manifest(_values), _edit_manifest(_values), _adapt(small.manifest_entry)),
        *(_adapt(small.manifest_shape), manifest_to_fit, manifest_with_more, manifest_lowered, manifest_renamed),
        *(manifest_foreign_values, manifest_foreign_values),
    ),
    SIGNATURE: (signature_bits, signature_values, signature_inside, signature_gone, signature_of_others),
}
