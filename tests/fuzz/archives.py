"""Tampers with a bundle's archive: its bytes, members, headers and OCI layers."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz import values

Member = tuple[tarfile.TarInfo, bytes]
Tamper = Callable[[Path, bytes, random.Random], None]

_TYPES = (
    *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE),
    *(tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, tarfile.AREGTYPE, b"V", b"M", b"Z"),
)
_NAMES = (
    *("/etc/passwd", "../../victim/file", "blobs/sha256/../../../victim/file", "blobs/sha256/x", "index.json/", ""),
    *("./index.json", "blobs/sha512/00", "a" * 300, "\x1b[31m", "\udcff", "oci-layout/../victim/file", "manifest.json"),
)


def members(raw: bytes) -> list[Member]:
    """The members of an archive and their contents."""
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]  # plain files


def to_tar(entries: list[Member], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of these members with their headers as they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for member, content in entries:
            if member.isreg():
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return buffer.getvalue()


def bits(path: Path, raw: bytes, rng: random.Random) -> None:
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 4, 50))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    path.write_bytes(changed)


def cut(path: Path, raw: bytes, rng: random.Random) -> None:
    path.write_bytes(raw[: rng.choice((0, 100, 511, 512, 513, rng.randrange(len(raw))))])


def header(path: Path, raw: bytes, rng: random.Random) -> None:
    """Changes a field of one member's header and updates the checksum."""
    starts = [begin for begin in range(0, len(raw), 512) if raw[begin + 257 : begin + 262] == b"ustar"]
    changed, begin = bytearray(raw), rng.choice(starts)
    offset, length = rng.choice(((0, 100), (124, 12), (124, 12), (156, 1), (157, 100), (345, 155), (257, 8), (100, 8)))
    sizes = (b"77777777777", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-1", b"99999999999", b"\x80" + bytes(10) + b"\x01")
    word = rng.choice((rng.randbytes(length), *sizes, *(name.encode("utf-8", "replace") for name in _NAMES)))
    changed[begin + offset : begin + offset + length] = word[:length].ljust(length, b"\0")
    changed[begin + 148 : begin + 156] = b" " * 8
    changed[begin + 148 : begin + 156] = f"{sum(changed[begin : begin + 512]):06o}\0 ".encode()
    path.write_bytes(changed)


def kind(path: Path, raw: bytes, rng: random.Random) -> None:
    """Replaces a blob by a link, a device or a sparse file."""
    entries = members(raw)
    member = rng.choice(entries)[0]
    member.type, member.linkname = rng.choice(_TYPES), rng.choice(("../victim/file", "/etc/passwd", member.name))
    path.write_bytes(to_tar(entries))


def name(path: Path, raw: bytes, rng: random.Random) -> None:
    entries = members(raw)
    rng.choice(entries)[0].name = rng.choice(_NAMES)
    path.write_bytes(to_tar(entries, rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))))


def add_member(path: Path, raw: bytes, rng: random.Random) -> None:
    """Adds a member, or duplicates one with other content."""
    entries = members(raw)
    extra = tarfile.TarInfo(rng.choice((*_NAMES, *(member.name for member, _ in entries))))
    entries.insert(rng.randrange(len(entries) + 1), (extra, rng.randbytes(rng.choice((0, 5, 700)))))
    path.write_bytes(to_tar(entries, tarfile.GNU_FORMAT))


def remove_member(path: Path, raw: bytes, rng: random.Random) -> None:
    entries = members(raw)
    entries.pop(rng.randrange(len(entries)))
    path.write_bytes(to_tar(entries))


def shuffled(path: Path, raw: bytes, rng: random.Random) -> None:
    entries = members(raw)
    first, second = rng.sample(range(len(entries)), 2)
    entries[first] = (entries[first][0], entries[second][1])
    path.write_bytes(to_tar(entries))


def extended(path: Path, raw: bytes, rng: random.Random) -> None:
    """Adds PAX headers that contradict the header."""
    entries = members(raw)
    member = rng.choice(entries)[0]
    headers = {
        "size": rng.choice(("-1", "99999999999999", "x", "1e9")),
        "path": rng.choice(_NAMES),
        "GNU.sparse.major": "1",
    }
    headers |= {"GNU.sparse.size": "1000000000000", "GNU.sparse.map": "0,1000000000000", "hdrcharset": "BINARY"}
    headers |= {"GNU.sparse.realsize": "1000000000", "GNU.sparse.minor": "0", "GNU.sparse.name": "../x", "mtime": "nan"}
    member.pax_headers = {key: headers[key] for key in rng.sample(sorted(headers), rng.choice((1, 2, 4)))}
    path.write_bytes(to_tar(entries))


def huge(path: Path, raw: bytes, rng: random.Random) -> None:
    """Adds a header with a huge size, in a sparse file of that size."""
    block = tarfile.TarInfo(rng.choice(("x", "index.json", "././@LongLink")))
    block.type = rng.choice((b"x", b"g", b"L", b"K", tarfile.REGTYPE, b"S"))
    block.size = rng.choice((3 << 30, 5 << 30, 1 << 40))
    with path.open("wb") as file:
        file.write(block.tobuf(tarfile.GNU_FORMAT))
        file.truncate(1024 + min(block.size, 6 << 30))
        file.seek(0, 2)
        file.write(raw)


def many(path: Path, raw: bytes, rng: random.Random) -> None:
    """Adds thousands of members."""
    extra = tarfile.TarInfo(rng.choice(("blobs/", "index.json", "blobs/sha256/" + "0" * 64, "x"))).tobuf()
    path.write_bytes(extra * rng.choice((3, 20_000)) + raw)


def no_tar(path: Path, raw: bytes, rng: random.Random) -> None:
    """Replaces the archive by a compressed one, a zip file, a decompression bomb or random bytes."""
    buffer = io.BytesIO()
    which = rng.randrange(5)
    if which == 0:
        path.write_bytes(gzip.compress(raw, 1))
    elif which == 1:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../../victim/file", b"x")
            archive.writestr("manifest.json", bytes(1 << 20))
        path.write_bytes(buffer.getvalue())
    elif which == 2:
        path.write_bytes(rng.randbytes(5000))
    elif which == 3:
        path.write_bytes(gzip.compress(bytes(32 << 20), 1))
    else:
        path.write_bytes(bytes(rng.choice((512, 1024, 10240))))


def layers(path: Path, raw: bytes, rng: random.Random) -> None:
    """Changes an OCI document and updates the digests up to the index."""
    entries = {member.name: content for member, content in members(raw)}
    index = json.loads(entries["index.json"])
    entry = index["manifests"][0]
    manifest = entries.pop(_blob(entry["digest"]))
    if rng.random() < 0.4:
        manifest = _other_layer(json.loads(manifest), entries, rng)
    elif rng.random() < 0.7:
        manifest = values.tamper(manifest, rng)
    entry["digest"], entry["size"] = f"sha256:{hashlib.sha256(manifest).hexdigest()}", len(manifest)
    entries[_blob(entry["digest"])] = manifest
    entries["index.json"] = json.dumps(index).encode()
    if rng.random() < 0.3:
        entries["index.json"] = values.tamper(entries["index.json"], rng)
    path.write_bytes(to_tar([(tarfile.TarInfo(name), content) for name, content in entries.items()]))


def _other_layer(manifest: Any, entries: dict[str, bytes], rng: random.Random) -> bytes:
    """Changes a layer and its entry in the OCI manifest, but not in the bundle's manifest."""
    layer = rng.choice(manifest["layers"])
    content = values.corrupt(entries.pop(_blob(layer["digest"]), b"x"), rng)
    layer["digest"], layer["size"] = f"sha256:{hashlib.sha256(content).hexdigest()}", len(content)
    entries[_blob(layer["digest"])] = content
    if rng.random() < 0.3:
        annotations = [entry["annotations"] for entry in manifest["layers"]]
        first, second = rng.sample(annotations, 2)
        first["org.cncf.model.filepath"], second["org.cncf.model.filepath"] = (
            second["org.cncf.model.filepath"],
            rng.choice((first["org.cncf.model.filepath"], *_NAMES)),
        )
    return json.dumps(manifest).encode()


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


TAMPERS: tuple[Tamper, ...] = (
    *(
        bits,
        cut,
        header,
        header,
        kind,
        name,
        add_member,
        remove_member,
        shuffled,
        extended,
        huge,
        many,
        no_tar,
        layers,
        layers,
    ),
)
