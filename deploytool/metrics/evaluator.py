"""Evaluates the answers of an artifact against those of the source: by a ready metric, or the user's function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from deploytool.data.batches import Batch
from deploytool.data.golden import Arrays
from deploytool.data.labels import masks
from deploytool.data.labels.labelled_images import LabelledImages, Target
from deploytool.data.placement import UNSEEN
from deploytool.loading import output_task
from deploytool.metrics import answers, catalog, decisions, inferiority, user_metric
from deploytool.results.measure import AGREEMENT, Measure
from deploytool.spec import Model, Task

Floats = npt.NDArray[np.float64]

_USUAL_MARGIN = 0.005  # of a user's metric
_MOST_BYTES = 256 << 20  # of outputs that are held for one call of the user's function


class Record(Protocol):
    """The answers of one artifact to all images, as they come."""

    def add(self, outputs: Arrays, batch: Batch) -> None:
        """Takes the outputs for the next images; raises BadInput for outputs that the metric does not understand."""

    def finish(self) -> Answers:
        """The answers to all images."""


@dataclass(frozen=True)
class Answers:
    """The answers to all images: what a ready metric takes, and the figure of each image."""

    answers: Any
    figures: Floats


class Evaluator(Protocol):
    """A metric with its targets."""

    margin: float

    def record(self) -> Record:
        """A new record, for one artifact."""

    def value(self, answers: Answers) -> float:
        """The value of the whole set."""

    def measure(self, artifact: Answers, source: Answers, margin: float, seed: int) -> Measure:
        """The verdict on an artifact."""


def choose(metric: str, model: Model, labelled: LabelledImages) -> Evaluator:
    """The evaluator of a metric, by its name or by the reference of the user's function."""
    if metric == AGREEMENT:
        return _DecisionEvaluator(model)
    if metric in catalog.METRICS:
        return _ReadyEvaluator(metric, model, labelled)
    return _UserEvaluator(metric, labelled)


class _UserEvaluator:
    """The user's function: it gets raw outputs, and gives one figure for each image."""

    margin = _USUAL_MARGIN

    def __init__(self, reference: str, labelled: LabelledImages) -> None:
        self._reference, self._targets = reference, labelled.targets

    def record(self) -> Record:
        return _UserRecord(self._reference, self._targets)

    def value(self, answers: Answers) -> float:
        return float(answers.figures.mean())

    def measure(self, artifact: Answers, source: Answers, margin: float, seed: int) -> Measure:
        span = inferiority.observed_span(artifact.figures, source.figures)
        return inferiority.measure(artifact.figures, source.figures, margin, span, seed)


class _UserRecord:
    def __init__(self, reference: str, targets: Sequence[Target]) -> None:
        self._reference, self._targets = reference, targets
        self._held: list[tuple[Arrays, tuple[int, ...]]] = []
        self._figures: list[Floats] = []

    def add(self, outputs: Arrays, batch: Batch) -> None:
        if self._held and _shapes(self._held[0][0]) != _shapes(outputs):
            self._flush()
        self._held.append((outputs, batch.indices))
        if sum(array.nbytes for each, _ in self._held for array in each.values()) > _MOST_BYTES:
            self._flush()

    def finish(self) -> Answers:
        self._flush()
        return Answers(None, np.concatenate(self._figures))

    def _flush(self) -> None:
        if self._held:
            names = self._held[0][0]
            outputs = {name: np.concatenate([each[name] for each, _ in self._held]) for name in names}
            targets = [self._targets[index] for _, indices in self._held for index in indices]
            self._figures.append(user_metric.scores(self._reference, outputs, targets))
            self._held = []


def _shapes(outputs: Arrays) -> Mapping[str, tuple[int, ...]]:
    return {name: array.shape[1:] for name, array in outputs.items()}


class _ReadyEvaluator:
    """A ready metric. Without targets, as for embeddings, they are the answers of the source, which come first."""

    def __init__(self, name: str, model: Model, labelled: LabelledImages) -> None:
        self._name, self._model, self._ready = name, model, catalog.METRICS[name]
        self.margin = self._ready.margin
        self._targets: Sequence[Any] | None = None
        if self._ready.task is Task.SEGMENT:
            self._targets = [masks.read(path) for path in labelled.targets if isinstance(path, Path)]
        elif self._ready.task is not Task.EMBED:
            self._targets = labelled.targets

    def record(self) -> Record:
        return _ReadyRecord(partial(answers.read, self._ready.task, self._model), self._finished)

    def _finished(self, given: Sequence[Any]) -> Answers:
        if self._targets is None:
            self._targets = given
        if self._ready.task is Task.SEGMENT:
            self._targets = [_seen(target, answer) for target, answer in zip(self._targets, given, strict=True)]
        return Answers(given, self._ready.metric.scores(given, self._targets))

    def value(self, answers: Answers) -> float:
        return self._ready.metric.value(answers.answers, self._targets)

    def measure(self, artifact: Answers, source: Answers, margin: float, seed: int) -> Measure:
        return catalog.measure(self._name, artifact.answers, source.answers, self._targets, margin, seed=seed)


class _DecisionEvaluator:
    """The agreement with the decisions of the source, whose answers come first."""

    margin = decisions.MARGIN

    def __init__(self, model: Model) -> None:
        self._task, self._model = output_task.decides(model), model
        self._source: Sequence[Any] | None = None

    def record(self) -> Record:
        return _ReadyRecord(partial(answers.read, self._task, self._model), self._finished)

    def _finished(self, given: Sequence[Any]) -> Answers:
        if self._source is None:
            self._source = given
        return Answers(given, decisions.agreement(self._task, given, self._source))

    def value(self, answers: Answers) -> float:
        return float(answers.figures.mean())

    def measure(self, artifact: Answers, source: Answers, margin: float, seed: int) -> Measure:
        return decisions.measure(self._task, artifact.answers, source.answers, margin, seed)


class _ReadyRecord:
    def __init__(self, read: Callable[[Arrays, Batch], list[Any]], finish: Callable[[Sequence[Any]], Answers]) -> None:
        self._read, self._finish = read, finish
        self._answers: list[Any] = []

    def add(self, outputs: Arrays, batch: Batch) -> None:
        self._answers += self._read(outputs, batch)

    def finish(self) -> Answers:
        return self._finish(self._answers)


def _seen(target: npt.NDArray[np.uint8], answer: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The mask without the pixels that the preprocessing cuts off."""
    return np.where(answer == UNSEEN, np.uint8(masks.IGNORED), target)
