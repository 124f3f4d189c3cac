"""Seeded images with the statistics of photographs, and the road from an image to a model's input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deploytool.spec import Preprocessing

Pixels = npt.NDArray[np.uint8]
Batch = npt.NDArray[np.float32]

_LEAVES = 800


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
