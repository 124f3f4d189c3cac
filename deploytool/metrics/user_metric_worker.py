"""Calls the user's metric in a child process, whose time and memory are limited."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploytool import serde
from deploytool.data.labels import masks
from deploytool.errors import DeployError
from deploytool.host import exception_text, files, terminal
from deploytool.loading import factory

_LARGEST = 1e100  # figures beyond it have no finite variance


@dataclass(frozen=True)
class ScoreTask:
    """What to score: the function's reference, the .npz file with the outputs in order, their names, and the targets.

    `result` is the file for the scores. Without a file of outputs, the function is only imported.
    """

    reference: str
    outputs: str
    names: tuple[str, ...]
    targets: tuple[TargetText, ...]
    result: str


@dataclass(frozen=True)
class TargetText:
    """The target of one image, as JSON: a class, tokens, the file of a mask, or boxes with classes and crowds."""

    label: int | None = None
    tokens: tuple[str, ...] | None = None
    mask: str = ""
    boxes: tuple[tuple[float, float, float, float], ...] | None = None
    classes: tuple[int, ...] = ()
    crowd: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Scores:
    """One figure for each image, or why there is none."""

    scores: tuple[float, ...] = ()
    problem: str = ""


def main() -> None:
    """Reads a task from stdin, one line of JSON, and writes `Scores` to the file that it names."""
    task = serde.decode(ScoreTask, serde.loads(sys.stdin.readline()))
    with terminal.stdout_to_stderr():  # a metric may print
        answer = _score(task)
    files.publish(Path(task.result), serde.text(answer).encode())


def _score(task: ScoreTask) -> Scores:
    called = task.reference.rpartition(":")[2]
    try:
        function = factory.resolve(task.reference)
    except DeployError as error:
        return Scores(problem=f"it cannot be imported: {error}")
    except BaseException as error:  # the user's code may raise anything, SystemExit too
        return Scores(problem=f"it cannot be imported: {exception_text.describe(error)}")
    if not task.outputs:
        return Scores()
    with np.load(task.outputs) as arrays:
        outputs = {name: arrays[f"arr_{number}"] for number, name in enumerate(task.names)}
    targets = [_target(target) for target in task.targets]
    try:
        returned = function(outputs, targets)
        scores = np.asarray(returned, np.float64)
    except BaseException as error:  # as above
        return Scores(problem=f"{called} raises {exception_text.describe(error)}")
    return _checked(scores, len(targets), called)


def _checked(scores: np.ndarray[Any, np.dtype[np.float64]], images: int, name: str) -> Scores:
    """The scores; a problem unless there is one finite number for each image."""
    if scores.shape != (images,):
        shape = " × ".join(map(str, scores.shape)) or "one number"
        return Scores(problem=f"{name} returns {shape} for {images} images, and not one figure for each image")
    if not np.isfinite(scores).all():
        first = int(np.flatnonzero(~np.isfinite(scores))[0])
        return Scores(problem=f"{name} returns {scores[first]} for image {first}, which is not finite")
    if len(large := np.flatnonzero(np.abs(scores) > _LARGEST)):
        problem = f"{name} returns {scores[large[0]]:.3g} for image {large[0]}, which is too large to compute with"
        return Scores(problem=problem)
    return Scores(tuple(scores.tolist()))


def _target(target: TargetText) -> object:
    """The target as the user's function gets it: an int, a list of str, a uint8 array, a dict of arrays, or None."""
    readers: Sequence[tuple[bool, Callable[[], object]]] = (
        (target.label is not None, lambda: target.label),
        (target.tokens is not None, lambda: list(target.tokens or ())),
        (bool(target.mask), lambda: masks.read(Path(target.mask))),
        (target.boxes is not None, lambda: _boxes(target)),
    )
    return next((read() for is_it, read in readers if is_it), None)


def _boxes(target: TargetText) -> dict[str, object]:
    return {
        "boxes": np.array(target.boxes or (), np.float64).reshape(-1, 4),
        "classes": np.array(target.classes, np.int64),
        "crowd": np.array(target.crowd, bool),
    }
