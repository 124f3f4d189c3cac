"""Runs the image readers of `run` and `--data` on corrupt, unusual and huge images."""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deploytool.bundle.manifest import read_manifest
from deploytool.data import image_folder, images
from tests.fuzz import judge, values
from tests.fuzz.artifacts import Artifacts
from tests.fuzz.judge import DEVICE_CLI, HOST_CLI, Case

_MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "I", "F", "CMYK", "YCbCr", "LAB", "HSV")
_SUFFIXES = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "GIF": ".gif",
    "TIFF": ".tif",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "PPM": ".ppm",
}
_SIDES = (0, 1, 2, 65_535, 65_536, 100_000, 1 << 24, (1 << 31) - 1, 0xFFFFFFFF)


class Images:
    """One batch of images."""

    name = "pictures"

    def __init__(self, original: Artifacts, scratch: Path) -> None:
        self.original, self.scratch = original, scratch
        self.folder = scratch / "data"
        self.folder.mkdir()
        self.preprocessing = read_manifest(original.bundle).preprocessing
        judge.fork_workers(seconds=60.0)  # fifty megapixels take long on a busy machine

    def clean(self, case: Case) -> None:
        """Reads a photograph of twelve megapixels."""
        pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((4000, 3000)).save(self.folder / "a.jpg")
        self._read(case, self.folder / "a.jpg", (0,), run=True)

    def case(self, rng: random.Random) -> Case:
        """One image."""
        form = rng.choice(sorted(_SUFFIXES))
        kind, raw = self._random(form, rng)
        case = Case(f"{form} {kind}")
        suffix = rng.choice((*[_SUFFIXES[form]] * 3, *_SUFFIXES.values()))
        path = self.folder / f"a{suffix}"
        path.write_bytes(raw)
        self._read(case, path, (0, 2), run=rng.random() < 0.5)
        path.unlink()
        return case

    def _read(self, case: Case, path: Path, codes: tuple[int, ...], *, run: bool) -> None:
        case.check("--data", judge.attempt(partial(self._data, path.parent)), codes)
        case.check("size", judge.attempt(partial(images.stored_size, path)), codes)
        if run:
            case.check(
                "run",
                judge.call(random.Random(path.name).choice((HOST_CLI, DEVICE_CLI)), "run", self.original.bundle, path),
                codes,
            )

    def _data(self, folder: Path) -> None:
        """Reads a folder of images as `--data` does."""
        for path in image_folder.read(folder).paths:
            images.fit(images.read(path), self.preprocessing)

    def _random(self, form: str, rng: random.Random) -> tuple[str, bytes]:
        kind = rng.randrange(10)
        if kind < 4:
            raw = _encode(form, rng)
            return "corrupt", _corrupt(raw, rng)
        if kind == 4:
            return "whole", _encode(form, rng)
        if kind == 5:
            return "huge", _forge_size(form, rng)
        if kind == 6:
            return "bomb", _bomb(rng)
        if kind == 7:
            return "frames", _with_frames(form, rng)
        if kind == 8:
            return "exif", _with_exif(form, rng)
        return "foreign", rng.choice(
            (b"", b"%!PS-Adobe-3.0 EPSF", b"<svg/>", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\0\0\0\0WEBP")
        )


def _encode(form: str, rng: random.Random, **options: Any) -> bytes:
    """A small image of a random mode, or RGB if the format does not support the mode."""
    mode, shape = rng.choice(_MODES), (rng.choice((1, 8, 33, 200)), rng.choice((1, 8, 33, 200)))
    pixels = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 255, (*shape, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    try:
        if mode == "I;16":
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        else:
            image = image.convert("L").convert(mode) if mode in ("I", "F") else image.convert(mode)
        image.save(buffer, form, **options)
    except Exception:  # the format does not support the mode or the EXIF data
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def _corrupt(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    kind = rng.randrange(4)
    if kind == 0:
        return values.corrupt(raw, rng)
    if kind == 1:
        return raw[: rng.randrange(len(raw))]
    span = min(len(changed), 100) if kind == 2 else len(changed)
    for _ in range(rng.choice((1, 2, 8, 40))):
        changed[rng.randrange(span)] = rng.randrange(256)
    return bytes(changed)


def _forge_size(form: str, rng: random.Random) -> bytes:
    """A small image whose header states a huge size."""
    raw, wide, high = bytearray(_encode(form, rng)), rng.choice(_SIDES), rng.choice(_SIDES)
    if form == "PNG":
        raw[16:24] = struct.pack(">II", wide, high)
        raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    elif form == "BMP":
        raw[18:26] = struct.pack("<II", wide, high)
    elif form == "GIF":
        raw[6:10] = struct.pack("<HH", wide & 0xFFFF, high & 0xFFFF)
    elif form == "PPM":
        return f"P6\n{wide} {high}\n255\n".encode() + bytes(100)
    elif form == "JPEG" and (at := raw.find(b"\xff\xc0")) > 0:
        raw[at + 5 : at + 9] = struct.pack(">HH", high & 0xFFFF, wide & 0xFFFF)
    elif form == "TIFF":
        for tag in (256, 257):
            if (at := raw.find(struct.pack("<HH", tag, 4))) > 0 or (at := raw.find(struct.pack("<HH", tag, 3))) > 0:
                raw[at + 2 : at + 12] = struct.pack("<HII", 4, 1, wide)
    return bytes(raw)


def _bomb(rng: random.Random) -> bytes:
    """A decompression bomb: few bytes with many pixels, in a random mode."""
    side = rng.choice((2_000, 5_000, 7_000, 9_300, 9_480, 12_000, 40_000))
    high = rng.choice((side, side // 50 + 1, 64))
    colour, depth, size = rng.choice(
        ((0, 1, 1 / 8), (0, 8, 1), (2, 8, 3), (6, 8, 4), (0, 16, 2), (4, 8, 2), (6, 16, 8))
    )
    line = bytes(1 + int(side * size) + 1)
    packer = zlib.compressobj(1)
    body = (
        b"".join(packer.compress(line * min(64, high - at)) for at in range(0, min(high, 12_000), 64)) + packer.flush()
    )
    head = struct.pack(">IIBBBBB", side, high, depth, colour, 0, 0, 0)
    extra = [_chunk(b"tEXt", b"a\0" + b"x" * 100), _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 << 20), 1))]
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", head)
        + rng.choice((b"", *extra))
        + _chunk(b"IDAT", body)
        + _chunk(b"IEND", b"")
    )


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _with_frames(form: str, rng: random.Random) -> bytes:
    """An image with several frames, if the format supports them."""
    frames = [Image.new(rng.choice(("RGB", "P", "L")), (40, 30), at) for at in range(rng.choice((2, 30)))]
    buffer = io.BytesIO()
    try:
        frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
    except Exception:  # the format does not support frames
        return _encode(form, rng)
    return buffer.getvalue()


def _with_exif(form: str, rng: random.Random) -> bytes:
    """An image with a random or corrupt EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 65_535))
    raw = (
        exif.tobytes()
        if rng.random() < 0.6
        else exif.tobytes()[: rng.randrange(30)] + rng.randbytes(rng.choice((0, 20)))
    )
    return _encode(form, rng, exif=raw) if form in ("JPEG", "PNG", "WEBP", "TIFF") else _encode(form, rng)
