"""Photographs from files, seeded images with their statistics, and the road from an image to a model's input."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from deploytool.errors import BadInput
from deploytool.spec import Preprocessing

Pixels = npt.NDArray[np.uint8]
Batch = npt.NDArray[np.float32]

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")  # no EPS, for which Pillow starts a program
_LONGEST = 100  # times the shorter side: resizing a line of pixels would fill the memory
_LEAVES = 800


def read(path: Path) -> Pixels:
    """The picture in a file: uint8, height × width × 3, RGB, upright.

    Transparent parts become white, 16-bit grey is rounded to 8 bits, and of several frames the first is kept.
    Raises BadInput if the file is no picture, not a whole one, or one too large to hold.
    """
    with _opened(path) as image:
        if max(image.size) > _LONGEST * min(image.size):
            raise ValueError(f"one side is more than {_LONGEST} times the other")
        return np.array(_rgb(ImageOps.exif_transpose(image)))


def write(path: Path, pixels: Pixels) -> None:
    """Writes a picture (uint8, height × width × 3) as PNG, which keeps every pixel."""
    Image.fromarray(pixels).save(path, format="PNG")


def stored_size(path: Path) -> tuple[int, int]:
    """Height and width as the file's header has them: nothing is decoded, and nothing turned upright.

    Raises BadInput if the file is no picture.
    """
    with _opened(path) as image:
        return image.height, image.width


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # 90 megapixels and more
            with Image.open(path, formats=_FORMATS) as image:
                yield image
    except Exception as error:  # what Pillow raises depends on where the file is broken
        raise BadInput(f"{path} cannot be read as a picture: {error}", "replace it, or take it out") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, and nothing says which of them is white")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow itself would cut off at 255
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("its pixels have more than 16 bits")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def fit(pixels: Pixels, preprocessing: Preprocessing) -> Pixels:
    """The centre `crop` × `crop` of a picture (uint8 HWC) whose shorter side has been resized to `resize`.

    Raises BadInput if there is no such interpolation.
    """
    if preprocessing.interpolation not in INTERPOLATIONS:
        raise BadInput(
            f"there is no interpolation {preprocessing.interpolation!r}", f"choose from {', '.join(INTERPOLATIONS)}"
        )
    shorter, crop = min(pixels.shape[:2]), preprocessing.crop
    height, width = (int(preprocessing.resize * side / shorter) for side in pixels.shape[:2])
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    resized = Image.fromarray(pixels).resize((width, height), INTERPOLATIONS[preprocessing.interpolation])
    return np.array(resized.crop((left, top, left + crop, top + crop)))


def dead_leaves(count: int, height: int, width: int, seed: int) -> Pixels:
    """`count` images, uint8, `count` × `height` × `width` × 3, that look like photographs to a convolution.

    Discs of random place, colour and power-law radius hide one another, under a sloping light and a little sensor
    noise: sharp edges, flat areas and the scale invariance of natural scenes, none of which white noise has.
    Source: A. B. Lee, D. Mumford, J. Huang, "Occlusion models for natural images", IJCV 2001.
    """
    rng = np.random.default_rng(seed)
    return np.stack([_scene(rng, height, width) for _ in range(count)])


def _scene(rng: np.random.Generator, height: int, width: int) -> Pixels:
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    size = max(height, width)
    palette = rng.uniform(0, 255, 3)
    scene = np.broadcast_to(palette, (height, width, 3)).astype(np.float32)
    for radius in np.minimum(size * 0.025 / np.sqrt(rng.uniform(0, 1, _LEAVES)), size / 2):  # density ∝ radius⁻³
        y, x = rng.uniform(-radius, height + radius), rng.uniform(-radius, width + radius)
        colour = 0.5 * palette + 0.5 * rng.uniform(0, 255, 3) + rng.normal(0, 25)
        top, bottom = int(max(0, y - radius)), int(min(height, y + radius + 1))
        left, right = int(max(0, x - radius)), int(min(width, x + radius + 1))
        window = (slice(top, max(top, bottom)), slice(left, max(left, right)))
        inside = (rows[window] - y) ** 2 + (columns[window] - x) ** 2 <= radius**2
        scene[window][inside] = colour
    slope = rng.uniform(-0.3, 0.3, 2)
    light = rng.uniform(0.7, 1.1) + slope[0] * (rows / height - 0.5) + slope[1] * (columns / width - 0.5)
    noisy: npt.NDArray[np.float64] = scene * light[..., None] + rng.normal(0, 4, scene.shape)
    return noisy.clip(0, 255).round().astype(np.uint8)


def normalise(pixels: Pixels, preprocessing: Preprocessing) -> Batch:
    """The model's input, float32 NCHW, from images that already have its height and width (uint8 NHWC, RGB)."""
    ordered = pixels[..., ::-1] if preprocessing.channels == "BGR" else pixels
    mean, std = np.array(preprocessing.mean, np.float32), np.array(preprocessing.std, np.float32)
    scaled = (ordered.astype(np.float32) * np.float32(preprocessing.scale) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
