"""Reads and writes images, draws synthetic ones with natural statistics, and converts images to model inputs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from deploytool.data import opencv_linear, placement
from deploytool.errors import BadInput
from deploytool.host import disk
from deploytool.spec import Preprocessing, Tensor

Pixels = npt.NDArray[np.uint8]
Inputs = npt.NDArray[Any]
Floats = npt.NDArray[np.floating]


def _by_pillow(filter: Image.Resampling, pixels: Pixels, height: int, width: int) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((width, height), filter))


INTERPOLATIONS: Mapping[str, Callable[[Pixels, int, int], Pixels]] = {
    "nearest": partial(_by_pillow, Image.Resampling.NEAREST),
    "bilinear": partial(_by_pillow, Image.Resampling.BILINEAR),
    "bicubic": partial(_by_pillow, Image.Resampling.BICUBIC),
    "area": partial(_by_pillow, Image.Resampling.BOX),
    "box": partial(_by_pillow, Image.Resampling.BOX),
    "lanczos": partial(_by_pillow, Image.Resampling.LANCZOS),
    "opencv": opencv_linear.resize,
}  # an image, uint8 HWC, resized to a height and width
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")  # not EPS, for which Pillow starts a program
_MAX_ASPECT = 100  # longer side over shorter side: resizing a line of pixels would fill the memory
_MAX_PIXELS, _PIXELS_PER_BYTE = 40_000_000, 16  # an image with more pixels must not be compressed further than this
_STRIP = 1 << 20  # pixels converted at once
_ORIENTATION = 0x0112  # EXIF tag
_FIRST_TURNED = 5  # from this orientation on, height and width are exchanged
_UPRIGHT: Mapping[int, Callable[[Pixels], Pixels]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}
_LEAVES = 800
_COLOURED = Tensor("input", ("batch", 3, "height", "width"))


def read(path: Path) -> Pixels:
    """The image in a file: uint8, height × width × 3, RGB, upright.

    Transparent pixels become white, 16-bit grey is rounded to 8 bits, and the first of several frames is read.
    Raises BadInput if the file is not an image, is truncated, or is too large.
    """
    return decode(path, path)


def decode(source: Path | BinaryIO, path: Path) -> Pixels:
    """The image in a file or an open stream, named `path` in errors; see `read`."""
    with _opened(source, path) as image:
        if max(image.size) > _MAX_ASPECT * min(image.size):
            raise ValueError(f"one side is more than {_MAX_ASPECT} times the other")
        image.load()  # turns a TIFF upright by itself
        orientation = image.getexif().get(_ORIENTATION, 1)
        pixels = _decoded(image)
    return np.ascontiguousarray(_UPRIGHT.get(orientation, np.asarray)(pixels))


def write(path: Path, pixels: Pixels) -> None:
    """Writes an image (uint8, height × width × 3) as PNG, which is lossless."""
    with disk.writing(path):
        Image.fromarray(pixels).save(path, format="PNG")


def stored_size(path: Path) -> tuple[int, int]:
    """Height and width from the file's header, without decoding and before any rotation.

    Raises BadInput if the file is not an image.
    """
    with _opened(path, path) as image:
        return image.height, image.width


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width of the image as `read` returns it, without decoding; raises BadInput if it is not an image."""
    with _opened(path, path) as image:
        is_turned = image.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
        return (image.width, image.height) if is_turned else (image.height, image.width)


@contextmanager
def _opened(source: Path | BinaryIO, path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings(), _bytes(source) as opened:
            warnings.simplefilter("ignore")  # warnings about unusual metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # 90 megapixels and more
            length = opened.seek(0, os.SEEK_END)
            opened.seek(0)
            with Image.open(opened, formats=_FORMATS) as image:
                limit = (
                    _MAX_PIXELS // 3 if image.format == "WEBP" else _MAX_PIXELS
                )  # Pillow holds three canvases of WebP
                if image.width * image.height > max(limit, _PIXELS_PER_BYTE * length):
                    raise ValueError(
                        f"it is a decompression bomb: {image.width} × {image.height} pixels of {length} bytes"
                    )
                yield image
    except Exception as error:  # Pillow raises many types, depending on the damage
        raise BadInput(f"{path} cannot be read as a picture: {error}", "replace it, or take it out") from error


def _bytes(source: Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    """The open file: given a path, Pillow maps some files, and rotates a mapped TIFF wrongly."""
    return source.open("rb") if isinstance(source, Path) else nullcontext(source)


def _decoded(image: Image.Image) -> Pixels:
    """The stored pixels as RGB, converted in strips: conversions of the whole image would need much memory."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = pixels[top : top + rows]
        strip[:] = np.asarray(_rgb(image.crop((0, top, image.width, top + len(strip)))))
    return pixels


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, and nothing says which of them is white")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow itself would clip at 255
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("its pixels have more than 16 bits")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        background = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def fit(pixels: Pixels, how: Preprocessing) -> Pixels:
    """An image (uint8 HWC) resized and cropped or padded by the preprocessing.

    Raises BadInput for an unknown interpolation, and for an image that is empty or smaller than the crop.
    """
    if how.interpolation not in INTERPOLATIONS:
        raise BadInput(f"there is no interpolation {how.interpolation!r}", f"choose from {', '.join(INTERPOLATIONS)}")
    placed = placement.place((pixels.shape[0], pixels.shape[1]), how)
    resized = INTERPOLATIONS[how.interpolation](pixels, *placed.resized)
    spans = [
        (max(start, 0), min(start + length, end))
        for start, length, end in zip(placed.offset, placed.resized, placed.canvas, strict=True)
    ]
    (top, bottom), (left, right) = spans
    above, beside = placed.offset
    made = np.full((*placed.canvas, 3), how.pad, np.uint8)
    made[top:bottom, left:right] = resized[top - above : bottom - above, left - beside : right - beside]
    return made


def dead_leaves(count: int, height: int, width: int, seed: int) -> Pixels:
    """Synthetic images, uint8, `count` × `height` × `width` × 3, with the statistics of photographs.

    Overlapping discs of random position, colour and power-law radius, with a light gradient and sensor noise: they have
    the sharp edges, flat areas and scale invariance of natural scenes, which white noise lacks.
    Source: A. B. Lee, D. Mumford, J. Huang, "Occlusion models for natural images", IJCV 2001.
    """
    rng = np.random.default_rng(seed)
    return np.stack([_scene(rng, height, width) for _ in range(count)])


def _scene(rng: np.random.Generator, height: int, width: int) -> Pixels:
    size = max(height, width)
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    palette = rng.uniform(0, 255, 3)
    radii = np.minimum(size * 0.025 / np.sqrt(rng.uniform(0, 1, _LEAVES)), size / 2)  # density ∝ radius⁻³
    drawn = np.array([(*rng.random(5).tolist(), rng.standard_normal()) for _ in radii])  # a leaf at a time
    y, x = (-radii + (side + radii + radii) * at for side, at in ((height, drawn[:, 0]), (width, drawn[:, 1])))
    colours = 0.5 * palette + 0.5 * (255 * drawn[:, 2:5]) + 25 * drawn[:, 5:]
    seen = _seen(rows, columns, radii, y, x)
    scene = np.concatenate([palette[None], colours]).astype(np.float32)[seen]
    slope = rng.uniform(-0.3, 0.3, 2)
    light = rng.uniform(0.7, 1.1) + slope[0] * (rows / height - 0.5) + slope[1] * (columns / width - 0.5)
    noisy: npt.NDArray[np.float64] = scene * light[..., None] + rng.normal(0, 4, scene.shape)
    return noisy.clip(0, 255).round().astype(np.uint8)


def _seen(rows: Floats, columns: Floats, radii: Floats, y: Floats, x: Floats) -> npt.NDArray[np.int16]:
    """The number of the topmost disc at each pixel, later discs above earlier ones, from 1; 0 where there is none."""
    down = (rows.T - y[:, None].astype(np.float32)) ** 2
    across = (columns - x[:, None].astype(np.float32)) ** 2
    (top, bottom), (left, right) = (
        (np.maximum(0, at - radii).astype(int).tolist(), np.minimum(end, at + radii + 1).astype(int).tolist())
        for end, at in ((len(rows), y), (len(columns), x))
    )
    seen = np.zeros((len(rows), len(columns)), np.int16)
    for leaf, reach in enumerate(radii**2):
        high, wide = slice(top[leaf], bottom[leaf]), slice(left[leaf], right[leaf])
        inside = np.add.outer(down[leaf, high], across[leaf, wide]) <= reach
        np.copyto(seen[high, wide], leaf + 1, where=inside)
    return seen


def normalise(pixels: Pixels, how: Preprocessing, tensor: Tensor = _COLOURED) -> Inputs:
    """The model input for images (uint8 NHWC, RGB) that already have its height and width."""
    if tensor.channels(how.layout) == 1:
        ordered = luma(pixels)
    else:
        ordered = pixels[..., ::-1] if how.channels == "BGR" else pixels
    if tensor.dtype != "uint8":
        mean, std = np.array(how.mean, np.float32), np.array(how.std, np.float32)
        made = ((ordered.astype(np.float32) * np.float32(how.scale) - mean) / std).astype(tensor.dtype, copy=False)
    else:
        made = ordered
    return np.ascontiguousarray(made if how.layout == "NHWC" else made.transpose(0, 3, 1, 2))


def luma(pixels: Pixels) -> Pixels:
    """Grey images (uint8, … × 1) of RGB images: ITU-R 601 in Pillow's integer arithmetic, exact where R = G = B."""
    weighed = pixels.astype(np.uint32) @ np.array((19595, 38470, 7471), np.uint32)
    return ((weighed + 0x8000) >> 16).astype(np.uint8)[..., None]
