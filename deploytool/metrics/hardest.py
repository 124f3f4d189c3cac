"""The images on which artifacts differ most from the source, with both answers drawn side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deploytool.data import drawing, images
from deploytool.data.images import Pixels
from deploytool.metrics.evaluator import Answers
from deploytool.results.measure import HardImage
from deploytool.spec import Model, Task
from deploytool.tasks import objects

_MOST = 6
_SIDE, _GAP = 480, 8  # pixels: the longer side of each drawing, and between two


@dataclass(frozen=True)
class Difference:
    """An image with the figures and, of a ready metric, the answers of an artifact and of the source."""

    index: int
    artifact: str
    figure: float
    source_figure: float
    answer: Any
    source_answer: Any

    @property
    def size(self) -> float:
        """How much the figures differ."""
        return abs(self.figure - self.source_figure)


def largest(known: Sequence[Difference], name: str, artifact: Answers, source: Answers) -> list[Difference]:
    """The largest differences of those known and those of an artifact, each image once, the largest first."""
    sizes = np.abs(artifact.figures - source.figures)
    worst = [int(index) for index in np.argsort(-sizes, kind="stable")[:_MOST] if sizes[index] > 0]
    found = [
        Difference(
            index,
            name,
            float(artifact.figures[index]),
            float(source.figures[index]),
            *(None if answers.answers is None else answers.answers[index] for answers in (artifact, source)),
        )
        for index in worst
    ]
    by_image: dict[int, Difference] = {}
    for each in sorted((*known, *found), key=lambda difference: -difference.size):
        by_image.setdefault(each.index, each)
    return list(by_image.values())[:_MOST]


def write(
    folder: Path, differences: Sequence[Difference], items: Sequence[Sequence[Path]], model: Model
) -> list[HardImage]:
    """Writes a drawing of the first image of each item: the source's answer on the left, the artifact's right of it.

    The other images of the item, of further inputs, follow on the right.
    """
    written = []
    for number, each in enumerate(differences):
        path, *others = items[each.index]
        pixels, name = images.read(path), f"image-{number}.png"
        drawn = [_drawn(pixels, answer, model) for answer in (each.source_answer, each.answer)]
        images.write(folder / name, _beside([*drawn, *(Image.fromarray(images.read(other)) for other in others)]))
        written.append(HardImage(path.name, each.artifact, each.figure, each.source_figure, name))
    return written


def _drawn(pixels: Pixels, answer: Any, model: Model) -> Image.Image:
    """The picture with an answer; alone where the answer is nothing that can be drawn."""
    if answer is not None and model.task is Task.DETECT:
        return drawing.boxes(pixels, objects.named(answer, model.classes))
    if answer is not None and model.task is Task.SEGMENT:
        return drawing.overlay(pixels, answer)
    return Image.fromarray(pixels)


def _beside(drawn: Sequence[Image.Image]) -> Pixels:
    """Drawings beside each other, at the top, on white."""
    for each in drawn:
        each.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    width = sum(each.width for each in drawn) + _GAP * (len(drawn) - 1)
    made, left = np.full((max(each.height for each in drawn), width, 3), 255, np.uint8), 0
    for each in drawn:
        made[: each.height, left : left + each.width] = np.asarray(each)
        left += each.width + _GAP
    return made
