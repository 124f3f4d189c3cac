"""Thumbnails of golden images as data URIs: the cases with another class, or a sample of all images."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from deploytool.data.golden import Pixels
from deploytool.report import rows
from deploytool.report.run_data import RunData, pixels

_SIDE = 88  # pixels; keeps a page at some hundred kilobytes
_LIMIT = 12  # thumbnails in a page


@dataclass(frozen=True)
class Thumbnail:
    """One golden image as a data URI, with its case number and lines of text."""

    uri: str
    case: int
    lines: tuple[str, ...]


def flip_thumbnails(run: RunData) -> tuple[Thumbnail, ...]:
    """The cases for which an artifact has another best class than the source, the largest margin first."""
    lines: dict[int, list[str]] = {}
    margins: dict[int, float] = {}
    for comparison in run.report.comparisons:
        for flip in comparison.agreement.flips if comparison.agreement else ():
            margins[flip.case] = max(margins.get(flip.case, 0.0), flip.margin)
            line = f"{rows.label(comparison)}: class {flip.artifact} for {flip.source}, margin {flip.margin:.1e}"
            lines.setdefault(flip.case, []).append(line)
    cases = sorted(lines, key=lambda case: -margins[case])
    return _thumbnails(run, cases, [lines[case] for case in cases])


def sample_thumbnails(run: RunData) -> tuple[Thumbnail, ...]:
    """The first golden images."""
    return _thumbnails(run, range(_LIMIT), [[]] * _LIMIT)


def _thumbnails(run: RunData, cases: Iterable[int], lines: Sequence[Sequence[str]]) -> tuple[Thumbnail, ...]:
    images = pixels(run)
    if images is None:
        return ()
    selected = [(case, text) for case, text in zip(cases, lines, strict=True) if case < len(images)][:_LIMIT]
    return tuple(Thumbnail(data_uri(images[case]), case, tuple(text)) for case, text in selected)


def data_uri(image_pixels: Pixels, side: int = _SIDE) -> str:
    """An image (uint8, height × width × 3), reduced to a longer side of `side` pixels, as a PNG data URI."""
    image = Image.fromarray(image_pixels)
    image.thumbnail((side, side), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.quantize(128).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
