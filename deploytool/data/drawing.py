"""Draws boxes and areas of classes into pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from deploytool.data.images import Pixels
from deploytool.data.placement import UNSEEN
from deploytool.tasks.objects import Box

_LEGIBLE, _LARGEST = 320, 1600  # a shorter side is enlarged for labels, up to a longer side
_SMALLEST_FONT, _FONT, _LINE = 12, 0.035, 0.005  # pixels; shares of the shorter side
_MAX_LABEL = 40  # characters
_GOLDEN_RATIO = 0.618034  # steps of hue: neighbouring classes look different, for any number of classes
_STRIP = 1 << 20  # pixels blended at once


def colour(index: int) -> tuple[int, int, int]:
    """The colour of a class, RGB."""
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.8, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def boxes(pixels: Pixels, found: Sequence[Box]) -> Image.Image:
    """The picture (uint8, height × width × 3) with its boxes, the best on top; small pictures are enlarged."""
    height, width = pixels.shape[:2]
    factor = max(1, min(-(-_LEGIBLE // min(height, width)), _LARGEST // max(height, width)))
    drawn = Image.fromarray(pixels).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    shorter = min(drawn.size)
    pen, line = ImageDraw.Draw(drawn), max(2, round(shorter * _LINE))
    font = ImageFont.load_default(size=max(_SMALLEST_FONT, round(shorter * _FONT)))
    for box in reversed(found):
        left, top, right, bottom = (round(corner * factor) for corner in box.corners)
        right, bottom = max(left, min(right, drawn.width) - 1), max(top, min(bottom, drawn.height) - 1)
        pen.rectangle((left, top, right, bottom), outline=colour(box.index), width=line)
        _label(pen, font, box, (left, top), drawn.size)
    return drawn


def _label(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    box: Box,
    corner: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """Writes class and score above the corner of a box, or below it at the upper edge of the picture."""
    text = f"{(box.name or str(box.index))[:_MAX_LABEL]} {box.score:.2f}"
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    margin = max(2, round((bottom - top) / 5))
    wide, high = round(right - left) + 2 * margin, round(bottom - top) + 2 * margin
    x, y = max(0, min(corner[0], size[0] - wide)), corner[1] - high
    if y < 0:
        y = max(0, min(corner[1], size[1] - high))
    red, green, blue = background = colour(box.index)
    pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=background)
    is_bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    pen.text((x + margin - left, y + margin - top), text, font=font, fill="black" if is_bright else "white")


def overlay(pixels: Pixels, classes: npt.NDArray[Any]) -> Image.Image:
    """The picture (uint8, height × width × 3) blended with the colours of a map of classes (height × width).

    Pixels without a class stay as they are.
    """
    drawn = pixels.copy()
    rows = max(1, _STRIP // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        part, strip = classes[top : top + rows], drawn[top : top + rows]
        indices, places = np.unique(part, return_inverse=True)
        palette = np.array([colour(int(index)) for index in indices], np.uint16)
        blended = ((strip + palette[places.reshape(part.shape)]) // 2).astype(np.uint8)
        np.copyto(strip, blended, where=(part != UNSEEN)[..., None])
    return Image.fromarray(drawn)
