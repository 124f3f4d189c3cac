"""Settles what the outputs of a model mean, and by which metric its artifacts are judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from deploytool.errors import BadInput
from deploytool.pipeline import options as checks
from deploytool.pipeline.export_options import ExportOptions
from deploytool.spec import DECODE_OPTION, Decoding, Model, Option, Source, Task

POINTS = "pt"  # the unit of a margin: one is 0.01
_CHOICES = {
    "boxes": ("xyxy", "xywh", "cxcywh"),
    "activation": ("none", "sigmoid", "softmax"),
    "background": ("none", "first", "last"),
}
_MAX_TOP = 10_000
_UNDECODED = Decoding()


@dataclass(frozen=True)
class MetricOptions:
    """The task with its decoding, the metric with the digest of its code, the labels with their classes, the margin."""

    task: Task | None = None
    decoding: Decoding = _UNDECODED
    metric: Source | None = None
    labels: Source | None = None
    max_drop: float | None = None
    classes: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()

    def of(self, model: Model) -> Model:
        """The model with the task, the decoding, and the names of the classes unless it has some."""
        classes, asked = model.classes or self.classes, (*model.asked, *self.asked)
        return replace(model, task=self.task, decoding=self.decoding, classes=classes, asked=asked)


def settle(requested: ExportOptions, model: Model) -> MetricOptions:
    """The task and metric that the options state or imply.

    Raises BadInput for options that contradict each other or have no effect, for a metric that does not exist, and for
    labels that cannot be used.
    """
    if not (requested.metric or requested.labels or requested.max_drop is not None):
        task = Task(requested.task) if requested.task else model.task
        return MetricOptions(task, _decoding(requested.decode or {}, model.decoding, task), asked=_asked(requested))
    from deploytool.pipeline import metric_choice  # it imports numpy, which `--help` needs not wait for

    labels = Path(requested.labels) if requested.labels else None
    task = metric_choice.task(requested, model, labels)
    decoding = _decoding(requested.decode or {}, model.decoding, task)
    if not requested.data:
        option = "--metric" if requested.metric else "--labels" if labels else "--max-drop"
        raise BadInput(f"{option} needs images, and none are given", "add --data DIR")
    metric = metric_choice.metric(requested.metric, task)
    digest = checks.file_or_folder(labels) if labels else None
    classes = metric_choice.classes(metric.path, Path(requested.data), labels, task, model)
    stated = margin(requested.max_drop)
    metric_choice.check_margin(requested.max_drop, stated, metric.path)
    return MetricOptions(task, decoding, metric, digest, stated, classes=classes, asked=_asked(requested))


def _asked(requested: ExportOptions) -> tuple[str, ...]:
    """The stated fields of the decoding, for `Model.asked`."""
    return tuple(f"{DECODE_OPTION} {field}" for field in requested.decode or ())


def margin_text(value: str) -> str:
    """The margin as it was written, for its unit counts; raises BadInput unless it is one."""
    margin(value)
    return value.strip()


def margin(value: float | str | None) -> float | None:
    """The margin as a number: `0.5pt` is 0.005; raises BadInput for anything else."""
    if value is None:
        return None
    text = str(value).strip()
    number = text.removesuffix(POINTS).strip()
    try:
        result = float(number) / (100 if text.endswith(POINTS) else 1)
    except ValueError:
        result = math.nan
    if not (math.isfinite(result) and result > 0):
        raise BadInput(f"--max-drop {value} is no margin", "write points above 0: --max-drop 0.5pt")
    return result


def _decoding(given: Mapping[str, Option], default: Decoding, task: Task | None) -> Decoding:
    """The decoding with the stated fields; raises BadInput for an unknown one, and for a value that does not fit."""
    if given and task is not Task.DETECT:
        raise BadInput("--decode is for detectors", "add --task detect, or leave it out")
    known = {field.name: type(field.default) for field in fields(Decoding)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise BadInput(f"--decode has no {name}", f"choose from {', '.join(known)}")
        kind = known[name]
        as_number = float(value) if kind is float and isinstance(value, int) and not isinstance(value, bool) else value
        if type(as_number) is not kind or (name in _CHOICES and value not in _CHOICES[name]):
            choices = ", ".join(_CHOICES.get(name, ("true", "false") if kind is bool else ("a number",)))
            raise BadInput(f"--decode {name}={value} is not valid", f"write one of: {choices}")
        values[name] = as_number
    made = replace(default, **values)
    if not (0 <= made.threshold < 1 and 0 <= made.nms < 1 and 1 <= made.top <= _MAX_TOP):
        raise BadInput(
            f"--decode threshold={made.threshold:g} nms={made.nms:g} top={made.top} is out of range",
            f"threshold and nms are from 0 to below 1, top is from 1 to {_MAX_TOP}",
        )
    return made
