"""Finds out by which metric the artifacts of an export are judged, and reads the labels once before the run."""

from __future__ import annotations

from pathlib import Path

from deploytool.data import batches
from deploytool.data.labels import read as data_labels
from deploytool.errors import BadInput
from deploytool.metrics import catalog, label_checks, user_metric
from deploytool.metrics.catalog import Unit
from deploytool.pipeline.export_options import ExportOptions
from deploytool.pipeline.metric_options import POINTS
from deploytool.spec import Model, Source, Task


def task(requested: ExportOptions, model: Model, labels: Path | None) -> Task | None:
    """The task: as stated, or of the metric, the labels or the model; raises BadInput if two of them differ."""
    ready = catalog.METRICS.get(requested.metric or "")
    sources = {
        "--task": Task(requested.task) if requested.task else None,
        f"--metric {requested.metric}": ready.task if ready else None,
        f"--labels {labels}": data_labels.task_of(labels) if labels else None,
    }
    said = [(option, found) for option, found in sources.items() if found]
    if said and (other := next((pair for pair in said if pair[1] is not said[0][1]), None)):
        problem = f"{said[0][0]} is for the task {said[0][1]}, and {other[0]} for {other[1]}"
        raise BadInput(problem, "leave out one of them")
    return said[0][1] if said else model.task


def metric(stated: str | None, of: Task | None) -> Source:
    """The metric, as stated or the usual one of a task, with the digest of its code, empty for a ready one.

    Raises BadInput if neither is known, and for a metric that does not exist or cannot be imported.
    """
    usual = next((name for name, ready in catalog.METRICS.items() if ready.task is of), "") if of else ""
    name = stated or usual
    if not name:
        raise BadInput("nothing says what the outputs mean", "add --task, or --metric")
    if name in catalog.METRICS:
        return Source(name, "")
    digest = user_metric.check(name)
    user_metric.try_import(name)
    return Source(name, digest)


def classes(metric: str, data: Path, labels: Path | None, of: Task | None, model: Model) -> tuple[str, ...]:
    """The names of the classes in the labels; raises BadInput for labels that cannot be used."""
    batches.check_input(model)
    labelled = data_labels.read(data, labels, of, model.classes, [tensor.name for tensor in model.inputs])
    if metric in catalog.METRICS:
        label_checks.check_objects(labelled)
    return labelled.classes


def check_margin(text: float | str | None, stated: float | None, metric: str) -> None:
    """Raises BadInput for a share in percent without its unit, and for a margin that no artifact could exceed.

    `text` is the margin as the user wrote it, `stated` the number that it stands for.
    """
    ready = catalog.METRICS.get(metric)
    if stated is not None and ready and ready.unit is Unit.PERCENT and not str(text).strip().endswith(POINTS):
        problem = f"--max-drop {text} has no unit, and {metric} is in percent"
        raise BadInput(problem, f"write --max-drop {stated:g}pt for {stated:g} points, or {stated * 100:g}pt")
    if stated is not None and ready and stated >= ready.span:
        problem = f"--max-drop is {stated * 100:g} points, at least the whole range of {metric}: no artifact could fail"
        raise BadInput(problem, "write points with their unit: --max-drop 0.5pt")
