"""Finds out by which metric the artifacts of an export are judged, and reads the labels once before the run."""

from __future__ import annotations

from pathlib import Path

from deploytool.data.labels import read as data_labels
from deploytool.errors import BadInput
from deploytool.metrics import catalog, user_metric
from deploytool.pipeline.export_options import ExportOptions
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

    Raises BadInput if neither is known, and for a metric that does not exist.
    """
    usual = next((name for name, ready in catalog.METRICS.items() if ready.task is of), "") if of else ""
    name = stated or usual
    if not name:
        raise BadInput("nothing says what the outputs mean", "add --task, or --metric")
    return Source(name, "" if name in catalog.METRICS else user_metric.check(name))


def classes(folder: Path, labels: Path | None, of: Task | None, model: Model) -> tuple[str, ...]:
    """The names of the classes in the labels; raises BadInput for labels that cannot be used."""
    return data_labels.read(folder, labels, of, model.classes).classes


def check_margin(stated: float | None, metric: str) -> None:
    """Raises BadInput for a margin that no artifact could exceed."""
    ready = catalog.METRICS.get(metric)
    if stated is not None and ready and stated >= ready.span:
        problem = f"--max-drop is {stated * 100:g} points, at least the whole range of {metric}: no artifact could fail"
        raise BadInput(problem, "write points with their unit: --max-drop 0.5pt")
