"""Reads pictures with their labels, in the form that belongs to a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploytool.data import image_folder
from deploytool.data.labels import coco, masks, table
from deploytool.data.labels.labelled_images import LabelledImages, class_index
from deploytool.errors import BadInput
from deploytool.spec import Task

_FORMS = {
    Task.CLASSIFY: "a CSV file with FILE,CLASS, or leave --labels out for a folder with one sub-folder a class",
    Task.DETECT: "a JSON file of annotations in COCO's format",
    Task.SEGMENT: "a folder of masks, a PNG for each picture",
    Task.TOKENS: "a CSV file with FILE,TEXT",
}


def task_of(labels: Path) -> Task | None:
    """The task that labels are for, told from their form; None for a CSV file, which has classes or tokens."""
    if labels.is_dir():
        return Task.SEGMENT
    return Task.DETECT if labels.suffix.lower() == ".json" else None


def read(folder: Path, labels: Path | None, task: Task | None, classes: Sequence[str]) -> LabelledImages:
    """The pictures of a folder with their labels; `classes` are the names that the model has.

    Without labels they are the sub-folders for a classifier, and nothing for others. Raises BadInput for labels that
    do not belong to the task or cannot be read.
    """
    if labels is None:
        return _unlabelled(folder, task, classes)
    suffix = "" if labels.is_dir() else labels.suffix.lower()
    if suffix == "" and labels.is_dir() and task in (None, Task.SEGMENT):
        return masks.find(labels, folder, classes)
    if suffix == ".json" and task in (None, Task.DETECT):
        return coco.read(labels, folder, classes)
    if suffix == ".csv" and task is Task.TOKENS:
        return table.read_tokens(labels, folder, classes)
    if suffix == ".csv" and task in (None, Task.CLASSIFY):
        return table.read_classes(labels, folder, classes)
    if task is Task.EMBED:
        raise BadInput("--labels do not belong to embeddings, which are compared with the source's", "leave them out")
    forms = _FORMS[task] if task else "a CSV file, a JSON file in COCO's format or a folder of masks"
    raise BadInput(f"{labels} are no labels for the task {task or 'of this model'}", f"give {forms}")


def _unlabelled(folder: Path, task: Task | None, classes: Sequence[str]) -> LabelledImages:
    found = image_folder.read(folder)
    if task in (Task.DETECT, Task.SEGMENT, Task.TOKENS) or (task is Task.CLASSIFY and not found.labels):
        raise BadInput(f"{folder} holds pictures without labels", f"give --labels: {_FORMS[task]}")
    if not found.labels or task is Task.EMBED:
        return LabelledImages(found.paths, (None,) * len(found.paths), tuple(classes))
    if not set(found.classes) & set(classes):
        return LabelledImages(found.paths, found.labels, found.classes)
    indices = {name: index for index, name in enumerate(classes)}
    targets = tuple(class_index(found.classes[label], indices, folder) for label in found.labels)
    return LabelledImages(found.paths, targets, tuple(classes))
