"""Whether an artifact decides as its source does, where there are neither labels nor a metric.

An image's figure is the agreement of the two answers: 1 if they decide alike. If they agree on a share of 1 - d, the
accuracy on any labels differs by at most d, so a verdict by a margin is one on accuracy too, and a strict one: most
disagreements are about images that both may have wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.errors import BadInput
from deploytool.metrics import cosine, edit_distance, inferiority
from deploytool.results.measure import Measure
from deploytool.spec import Task
from deploytool.tasks import boxes
from deploytool.tasks.detections import Detections

Floats = npt.NDArray[np.float64]

MARGIN = 0.01  # of agreement
LEAST_OVERLAP = 0.5  # IoU of two detections that are the same object


def measure(
    task: Task, artifact: Sequence[Any], source: Sequence[Any], margin: float = MARGIN, seed: int = 0
) -> Measure:
    """The agreement with the source's decisions on the same images, with its interval and the verdict.

    The answers are those of `metrics.answers.read`, one an image. In the result `artifact` is the mean agreement,
    `source` 1. Raises BadInput for no images or other numbers of answers.
    """
    figures = agreement(task, artifact, source)
    found = inferiority.measure(figures, np.ones(len(figures)), margin, 1.0, seed)
    return replace(found, difference=replace(found.difference, high=min(0.0, found.difference.high)))


def agreement(task: Task, artifact: Sequence[Any], source: Sequence[Any]) -> Floats:
    """The agreement of each pair of answers, from 0 to 1.

    Classes: whether the best one is the same, of equal ones any. Maps: the share of pixels with the same class.
    Detections: twice the pairs of one class that overlap by half, over the number of both. Tokens: 1 minus the edit
    distance over the length. Embeddings: the cosine, 0 at least.
    """
    if len(artifact) != len(source):
        problem = f"there are {len(artifact)} answers of the artifact and {len(source)} of the source"
        raise BadInput(problem, "compare the answers to the same images")
    pairs = zip(artifact, source, strict=True)
    return np.array([_AGREEMENTS[task](got, expected) for got, expected in pairs], np.float64)


def _same_class(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """1 if the artifact's best class is among the best of the source; not for scores that are no numbers."""
    if not (np.isfinite(got).any() and np.isfinite(expected).any()):
        return 0.0
    return float(expected[np.nanargmax(got)] == np.nanmax(expected))


def _same_pixels(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    return float((got == expected).mean()) if got.shape == expected.shape else 0.0


def _same_objects(got: Detections, expected: Detections) -> float:
    """The F1 score of the artifact's objects against the source's; 1 if neither has any.

    Each object of the artifact, the best first, takes the free one of its class that overlaps it most.
    """
    both = len(got.boxes) + len(expected.boxes)
    if not both:
        return 1.0
    overlaps = boxes.iou(got.boxes, expected.boxes) * (got.classes[:, None] == expected.classes[None])
    pairs = 0
    for row in np.argsort(-got.scores, kind="stable") if len(expected.boxes) else ():
        best = int(overlaps[row].argmax())
        if overlaps[row, best] >= LEAST_OVERLAP:
            overlaps[:, best] = 0
            pairs += 1
    return 2 * pairs / both


def _same_tokens(got: Sequence[str], expected: Sequence[str]) -> float:
    longest = max(len(got), len(expected), 1)
    return 1 - edit_distance.distance(got, expected) / longest


def _same_direction(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    return max(0.0, float(cosine.scores(got[None], expected[None])[0]))


_AGREEMENTS: Mapping[Task, Callable[[Any, Any], float]] = {
    Task.CLASSIFY: _same_class,
    Task.DETECT: _same_objects,
    Task.SEGMENT: _same_pixels,
    Task.TOKENS: _same_tokens,
    Task.EMBED: _same_direction,
}
