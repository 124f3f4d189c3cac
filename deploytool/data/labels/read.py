"""Reads pictures with their labels, in the form that belongs to a task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deploytool.data import batches, items
from deploytool.data.items import Items
from deploytool.data.labels import coco, masks, table
from deploytool.data.labels.labelled_images import LabelledImages, Target, class_index
from deploytool.errors import BadInput
from deploytool.spec import Model, Options, Task

_FORMS = {
    Task.CLASSIFY: "a CSV file with FILE,CLASS, or leave it out for one sub-folder a class, or items with a column "
    f"{items.LABEL}",
    Task.DETECT: "a JSON file of annotations in COCO's format",
    Task.SEGMENT: "a folder of masks, a PNG for each picture",
    Task.TOKENS: "a CSV file with FILE,TEXT",
}


def task_of(labels: Path) -> Task | None:
    """The task that labels are for, told from their form; None for a CSV file, which has classes or tokens."""
    if labels.is_dir():
        return Task.SEGMENT
    return Task.DETECT if labels.suffix.lower() == ".json" else None


def of_run(options: Options, model: Model) -> LabelledImages:
    """The items of --data for a settled model, with their labels if there is a metric; raises BadInput as `read` does.

    It does so too for a model that takes anything but images.
    """
    assert options.data is not None
    batches.check_input(model)
    labels = Path(options.labels.path) if options.labels else None
    names = [tensor.name for tensor in model.inputs]
    return read(Path(options.data.path), labels, model.task if options.metric else None, model.classes, names)


def read(
    data: Path, labels: Path | None, task: Task | None, classes: Sequence[str], inputs: Sequence[str] = ("image",)
) -> LabelledImages:
    """The items of a folder or CSV file with their labels; `classes` are the names that the model has.

    `inputs` are the names of the model's image inputs, of which one needs none. Labels name the pictures of the first.
    Without labels they are the sub-folders for a classifier, or the column of the CSV file, and nothing for others.
    Raises BadInput for labels that do not belong to the task or cannot be read.
    """
    if labels is None:
        return _unlabelled(data, items.read(data, inputs), task, classes)
    return _with_partners(_labelled(data, labels, task, classes, inputs), data, inputs)


def _labelled(
    data: Path, labels: Path, task: Task | None, classes: Sequence[str], inputs: Sequence[str]
) -> LabelledImages:
    """The pictures of the first input with what the labels say of them."""
    folder = items.first_folder(data, inputs)
    suffix = "" if labels.is_dir() else labels.suffix.lower()
    if suffix == "" and labels.is_dir() and task in (None, Task.SEGMENT):
        return masks.find(labels, [first for first, *_ in items.read(data, inputs).paths], classes)
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


def _unlabelled(data: Path, found: Items, task: Task | None, classes: Sequence[str]) -> LabelledImages:
    """The items with the classes that their folders or their column say, or with nothing."""
    if task in (Task.DETECT, Task.SEGMENT, Task.TOKENS) or (task is Task.CLASSIFY and not found.labels):
        raise BadInput(f"{data} holds pictures without labels", f"give --labels: {_FORMS[task]}")
    targets: tuple[Target, ...] = (None,) * len(found.paths)
    names = tuple(classes)
    if found.labels and task is not Task.EMBED:
        targets, names = _classes(data, found, classes)
    firsts, partners = tuple(item[0] for item in found.paths), tuple(item[1:] for item in found.paths)
    return LabelledImages(firsts, targets, names, partners)


def _classes(data: Path, found: Items, classes: Sequence[str]) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    """The class of each item, an index of the names that follow: those of the model, or those of the data."""
    if not found.classes:  # indices in a CSV file
        table.check_indices(data, found.labels, classes)
        return found.labels, tuple(classes)
    if not classes or (not items.is_table(data) and not set(found.classes) & set(classes)):
        return found.labels, found.classes
    indices = {name: index for index, name in enumerate(classes)}
    return tuple(class_index(found.classes[label], indices, data) for label in found.labels), tuple(classes)


def _with_partners(labelled: LabelledImages, data: Path, inputs: Sequence[str]) -> LabelledImages:
    """The pictures of the first input with those of the others; raises BadInput for one that is not in one item."""
    if len(inputs) == 1 and not items.is_table(data):
        return labelled
    by_first: dict[str, list[tuple[Path, ...]]] = {}
    for first, *others in items.read(data, inputs).paths:
        by_first.setdefault(os.path.normpath(first), []).append(tuple(others))
    partners = []
    for path in labelled.paths:
        found = by_first.get(os.path.normpath(path), [])
        if len(found) != 1:
            problem = f"{path} is in {len(found)} items of {data}, so that a label for it is for none of them alone"
            raise BadInput(problem, f"label items in a column {items.LABEL} of a CSV file, or name pictures of items")
        partners.append(found[0])
    return replace(labelled, partners=tuple(partners))
