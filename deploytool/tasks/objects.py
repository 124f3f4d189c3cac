"""Detections as people read them: with the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploytool.tasks.detections import Detections


@dataclass(frozen=True)
class Box:
    """One object: the index and name of its class, its score, and x1, y1, x2, y2 in pixels of the picture.

    The name is empty where the class has none.
    """

    index: int
    name: str
    score: float
    corners: tuple[float, float, float, float]


def named(found: Detections, classes: Sequence[str]) -> tuple[Box, ...]:
    """The objects with the names of their classes, in the order of the detections."""
    rows = zip(found.classes.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    return tuple(
        Box(index, classes[index] if 0 <= index < len(classes) else "", score, (left, top, right, bottom))
        for index, score, (left, top, right, bottom) in rows
    )
