"""Every way to tamper with a bundle in one file: its bytes, its members, what they say they are, and the layers."""

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
    """What an archive holds."""
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]  # plain files


def to_tar(held: list[Member], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of these members, whatever they say of themselves."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for member, content in held:
            if member.isreg():
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return made.getvalue()


def bits(path: Path, raw: bytes, rng: random.Random) -> None:
    made = bytearray(raw)
    for _ in range(rng.choice((1, 1, 4, 50))):
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    path.write_bytes(made)


def cut(path: Path, raw: bytes, rng: random.Random) -> None:
    path.write_bytes(raw[: rng.choice((0, 100, 511, 512, 513, rng.randrange(len(raw))))])


def header(path: Path, raw: bytes, rng: random.Random) -> None:
    """A field of one member's header, with a checksum that fits."""
    starts = [begin for begin in range(0, len(raw), 512) if raw[begin + 257 : begin + 262] == b"ustar"]
    made, begin = bytearray(raw), rng.choice(starts)
    place, length = rng.choice(((0, 100), (124, 12), (124, 12), (156, 1), (157, 100), (345, 155), (257, 8), (100, 8)))
    odd = (b"77777777777", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-1", b"99999999999", b"\x80" + bytes(10) + b"\x01")
    word = rng.choice((rng.randbytes(length), *odd, *(name.encode("utf-8", "replace") for name in _NAMES)))
    made[begin + place : begin + place + length] = word[:length].ljust(length, b"\0")
    made[begin + 148 : begin + 156] = b" " * 8
    made[begin + 148 : begin + 156] = f"{sum(made[begin : begin + 512]):06o}\0 ".encode()
    path.write_bytes(made)


def kind(path: Path, raw: bytes, rng: random.Random) -> None:
    """A link, a device, a sparse file where a blob should be."""
    held = members(raw)
    member = rng.choice(held)[0]
    member.type, member.linkname = rng.choice(_TYPES), rng.choice(("../victim/file", "/etc/passwd", member.name))
    path.write_bytes(to_tar(held))


def name(path: Path, raw: bytes, rng: random.Random) -> None:
    held = members(raw)
    rng.choice(held)[0].name = rng.choice(_NAMES)
    path.write_bytes(to_tar(held, rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))))


def add_member(path: Path, raw: bytes, rng: random.Random) -> None:
    """A member more, or one twice with other bytes."""
    held = members(raw)
    one = tarfile.TarInfo(rng.choice((*_NAMES, *(member.name for member, _ in held))))
    held.insert(rng.randrange(len(held) + 1), (one, rng.randbytes(rng.choice((0, 5, 700)))))
    path.write_bytes(to_tar(held, tarfile.GNU_FORMAT))


def remove_member(path: Path, raw: bytes, rng: random.Random) -> None:
    held = members(raw)
    held.pop(rng.randrange(len(held)))
    path.write_bytes(to_tar(held))


def shuffled(path: Path, raw: bytes, rng: random.Random) -> None:
    held = members(raw)
    first, second = rng.sample(range(len(held)), 2)
    held[first] = (held[first][0], held[second][1])
    path.write_bytes(to_tar(held))


def extended(path: Path, raw: bytes, rng: random.Random) -> None:
    """PAX headers that say something else than the header."""
    held = members(raw)
    member = rng.choice(held)[0]
    odd = {
        "size": rng.choice(("-1", "99999999999999", "x", "1e9")),
        "path": rng.choice(_NAMES),
        "GNU.sparse.major": "1",
    }
    odd |= {"GNU.sparse.size": "1000000000000", "GNU.sparse.map": "0,1000000000000", "hdrcharset": "BINARY"}
    odd |= {"GNU.sparse.realsize": "1000000000", "GNU.sparse.minor": "0", "GNU.sparse.name": "../x", "mtime": "nan"}
    member.pax_headers = {key: odd[key] for key in rng.sample(sorted(odd), rng.choice((1, 2, 4)))}
    path.write_bytes(to_tar(held))


def huge(path: Path, raw: bytes, rng: random.Random) -> None:
    """A header that says gigabytes come, in a file that has as many and takes no room."""
    block = tarfile.TarInfo(rng.choice(("x", "index.json", "././@LongLink")))
    block.type = rng.choice((b"x", b"g", b"L", b"K", tarfile.REGTYPE, b"S"))
    block.size = rng.choice((3 << 30, 5 << 30, 1 << 40))
    with path.open("wb") as opened:
        opened.write(block.tobuf(tarfile.GNU_FORMAT))
        opened.truncate(1024 + min(block.size, 6 << 30))
        opened.seek(0, 2)
        opened.write(raw)


def many(path: Path, raw: bytes, rng: random.Random) -> None:
    """More members than any bundle has."""
    one = tarfile.TarInfo(rng.choice(("blobs/", "index.json", "blobs/sha256/" + "0" * 64, "x"))).tobuf()
    path.write_bytes(one * rng.choice((3, 20_000)) + raw)


def no_tar(path: Path, raw: bytes, rng: random.Random) -> None:
    """Compressed, a zip, a bomb of one, or nothing of the kind."""
    made = io.BytesIO()
    which = rng.randrange(5)
    if which == 0:
        path.write_bytes(gzip.compress(raw, 1))
    elif which == 1:
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../../victim/file", b"x")
            archive.writestr("manifest.json", bytes(1 << 20))
        path.write_bytes(made.getvalue())
    elif which == 2:
        path.write_bytes(rng.randbytes(5000))
    elif which == 3:
        path.write_bytes(gzip.compress(bytes(32 << 20), 1))
    else:
        path.write_bytes(bytes(rng.choice((512, 1024, 10240))))


def layers(path: Path, raw: bytes, rng: random.Random) -> None:
    """A document of OCI's with other values, under digests that fit up to the index."""
    held = {member.name: content for member, content in members(raw)}
    index = json.loads(held["index.json"])
    entry = index["manifests"][0]
    manifest = held.pop(_blob(entry["digest"]))
    if rng.random() < 0.4:
        manifest = _other_layer(json.loads(manifest), held, rng)
    elif rng.random() < 0.7:
        manifest = values.tamper(manifest, rng)
    entry["digest"], entry["size"] = f"sha256:{hashlib.sha256(manifest).hexdigest()}", len(manifest)
    held[_blob(entry["digest"])] = manifest
    held["index.json"] = json.dumps(index).encode()
    if rng.random() < 0.3:
        held["index.json"] = values.tamper(held["index.json"], rng)
    path.write_bytes(to_tar([(tarfile.TarInfo(name), content) for name, content in held.items()]))


def _other_layer(manifest: Any, held: dict[str, bytes], rng: random.Random) -> bytes:
    """Other bytes in a layer, and a manifest of OCI's that names them: the bundle's own does not."""
    layer = rng.choice(manifest["layers"])
    content = values.corrupt(held.pop(_blob(layer["digest"]), b"x"), rng)
    layer["digest"], layer["size"] = f"sha256:{hashlib.sha256(content).hexdigest()}", len(content)
    held[_blob(layer["digest"])] = content
    if rng.random() < 0.3:
        paths = [each["annotations"] for each in manifest["layers"]]
        first, second = rng.sample(paths, 2)
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
