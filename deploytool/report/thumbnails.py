"""Thumbnails inside a page: the cases of which an artifact named another class, or else a few of the golden images."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from deploytool.data.golden import Pixels
from deploytool.report import rows
from deploytool.report.run_data import RunData, pixels

_SIDE = 88  # pixels: small beside the text, and a page of some hundred kilobytes
_MOST = 12


@dataclass(frozen=True)
class Picture:
    """One golden image as a data URI, and what is to be said of it."""

    uri: str
    case: int
    lines: tuple[str, ...]


def flips(facts: RunData) -> tuple[Picture, ...]:
    """The cases of which an artifact names another class than the source, the worst first."""
    said: dict[int, list[str]] = {}
    margins: dict[int, float] = {}
    for comparison in facts.report.comparisons:
        for flip in comparison.agreement.flips if comparison.agreement else ():
            margins[flip.case] = max(margins.get(flip.case, 0.0), flip.margin)
            line = f"{rows.label(comparison)}: class {flip.artifact} for {flip.source}, margin {flip.margin:.1e}"
            said.setdefault(flip.case, []).append(line)
    worst = sorted(said, key=lambda case: -margins[case])
    return _pictures(facts, worst, [said[case] for case in worst])


def samples(facts: RunData) -> tuple[Picture, ...]:
    """The first golden images, so that one sees what was asked."""
    return _pictures(facts, range(_MOST), [[]] * _MOST)


def _pictures(facts: RunData, cases: Iterable[int], lines: Sequence[Sequence[str]]) -> tuple[Picture, ...]:
    found = pixels(facts)
    if found is None:
        return ()
    shown = [(case, said) for case, said in zip(cases, lines, strict=True) if case < len(found)][:_MOST]
    return tuple(Picture(_uri(found[case]), case, tuple(said)) for case, said in shown)


def _uri(pixels_: Pixels) -> str:
    """A picture (uint8, height × width × 3), small, as PNG in base64."""
    image = Image.fromarray(pixels_)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    kept = io.BytesIO()
    image.quantize(128).save(kept, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(kept.getvalue()).decode("ascii")
