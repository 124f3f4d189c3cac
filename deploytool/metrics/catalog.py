"""The ready metrics, by the names that `--metric` takes, and the measure of an artifact by one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from deploytool.metrics import average_precision, cer, cosine, inferiority, miou, top1, top5, wer
from deploytool.results.measure import Measure
from deploytool.spec import StrEnum, Task

Floats = npt.NDArray[np.float64]

SET_RESAMPLES = 1000  # of a value that is no mean: each takes a pass over all answers


class Unit(StrEnum):
    """How the figure of a metric is shown: a share in percent, with differences in points, or as it is."""

    PERCENT = "%"
    NONE = ""


class Metric(Protocol):
    """A metric, whose figures are the better the higher; the types of answers and targets are those of its task."""

    def scores(self, answers: Any, targets: Any) -> Floats:
        """One figure for each image."""

    def value(self, answers: Any, targets: Any) -> float:
        """The figure of all images together."""


class Resampler(Protocol):
    """A function of weights (resamples × images) that gives a metric's value for each row, of answers and targets."""

    def __call__(self, answers: Any, targets: Any) -> Callable[[Floats], Floats]:
        """The function of weights."""


@dataclass(frozen=True)
class ReadyMetric:
    """A metric with the drop that it allows by default, and the range of one image's figure.

    `resampler` is for a value of the set that is not the mean of the scores.
    """

    task: Task
    metric: Metric
    margin: float
    unit: Unit = Unit.PERCENT
    span: float = 1.0
    resampler: Resampler | None = None


METRICS: Mapping[str, ReadyMetric] = MappingProxyType(
    {
        "top1": ReadyMetric(Task.CLASSIFY, top1, 0.005),
        "top5": ReadyMetric(Task.CLASSIFY, top5, 0.005),
        "map": ReadyMetric(Task.DETECT, average_precision, 0.005, resampler=average_precision.resampler),
        "miou": ReadyMetric(Task.SEGMENT, miou, 0.005, resampler=miou.resampler),
        "cosine": ReadyMetric(Task.EMBED, cosine, 0.01, Unit.NONE, span=2.0),
        "wer": ReadyMetric(Task.TOKENS, wer, 0.005),
        "cer": ReadyMetric(Task.TOKENS, cer, 0.005),
    }
)


def measure(name: str, artifact: Any, source: Any, targets: Any, margin: float, seed: int = 0) -> Measure:
    """The verdict on the answers of an artifact and of its source to the same images, by the metric of this name.

    Raises `BadInput` for targets that the metric cannot use.
    """
    ready = METRICS[name]
    if ready.resampler is None:
        of_artifact, of_source = (ready.metric.scores(answers, targets) for answers in (artifact, source))
        return inferiority.measure(of_artifact, of_source, margin, ready.span, seed)
    artifact_value, source_value = (ready.resampler(answers, targets) for answers in (artifact, source))
    once = np.ones((1, len(targets)))
    found = inferiority.estimate_values(
        lambda weights: artifact_value(weights) - source_value(weights), len(targets), ready.span, seed, SET_RESAMPLES
    )
    return inferiority.conclude(found, float(artifact_value(once)[0]), float(source_value(once)[0]), margin)
