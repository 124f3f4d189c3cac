"""Whether a ready metric can be computed from labels and the outputs of a model: known once the source has run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploytool.data.golden import Arrays
from deploytool.data.labels import masks
from deploytool.data.labels.labelled_images import LabelledImages
from deploytool.errors import BadInput
from deploytool.loading import output_task
from deploytool.metrics import average_precision, catalog
from deploytool.spec import Model, Task
from deploytool.tasks import detections, fit, interpret
from deploytool.tasks.annotations import Boxes
from deploytool.tasks.detections import Detections

_NAME_ALL = "name all classes in the order of the scores with --classes FILE"


def check(metric: str, model: Model, labelled: LabelledImages, outputs: Arrays) -> None:
    """Raises BadInput for labels that a ready metric cannot use with such outputs of some images.

    These are classes of another number than the model's, a class beyond them, and masks that mark nothing at all.
    """
    task = catalog.METRICS[metric].task
    fit.check(task, outputs)
    if task in _CHECKS:
        _CHECKS[task](metric, model, labelled, outputs)


def check_objects(labelled: LabelledImages) -> None:
    """Raises BadInput for boxes of images that mark no object at all; other labels have a target for every image."""
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    targets = [target for target in labelled.targets if isinstance(target, Boxes)]
    if targets:
        average_precision.value([nothing] * len(targets), targets)


def _check_classes(metric: str, model: Model, labelled: LabelledImages, outputs: Arrays) -> None:
    """Raises BadInput for another number of names than scores, a class without a score, or too few classes."""
    scores = interpret.class_scores(outputs)[:1]
    if labelled.classes and len(labelled.classes) != scores.shape[1]:
        problem = f"the labels name {len(labelled.classes)} classes, and {model.name} has {scores.shape[1]} scores"
        raise BadInput(problem, _NAME_ALL)
    largest = max(target for target in labelled.targets if isinstance(target, int))
    catalog.METRICS[metric].metric.scores(scores, np.array([largest]))


def _check_box_classes(metric: str, model: Model, labelled: LabelledImages, outputs: Arrays) -> None:
    """Raises BadInput for another number of names than scores of a box."""
    classes, named = detections.class_count(outputs, model.decoding), len(labelled.classes)
    if classes is not None and named != classes:
        place = model.decoding.background
        without = f" without the background, which is {place}" if place != "none" else ""
        problem = f"the labels name {named} classes, and {model.name} has scores of {classes}{without}"
        raise BadInput(problem, f"{_NAME_ALL}, or state --decode background=none, first or last")


def _check_masks(metric: str, model: Model, labelled: LabelledImages, outputs: Arrays) -> None:
    """Raises BadInput for a mask with a class of no score, and if no pixel of any mask counts."""
    classes, marked = fit.map_classes(outputs) or masks.IGNORED, False
    for path in (target for target in labelled.targets if isinstance(target, Path)):
        mask = masks.read(path)
        counted: npt.NDArray[np.uint8] = mask[mask != masks.IGNORED]
        marked |= counted.size > 0
        if (largest := int(counted.max(initial=0))) >= classes:
            problem = f"{path} has the class {largest}, and the model {classes} classes from 0 on"
            raise BadInput(problem, f"correct it, or mark pixels that count for nothing as {masks.IGNORED}")
    if not marked:
        remedy = f"use class numbers below {masks.IGNORED} in the labels"
        raise BadInput("the labels have no pixel of any class", remedy)


_CHECKS: Mapping[Task, Callable[[str, Model, LabelledImages, Arrays], None]] = {
    Task.CLASSIFY: _check_classes,
    Task.DETECT: _check_box_classes,
    Task.SEGMENT: _check_masks,
}


def class_remarks(model: Model, labelled: LabelledImages, answers: Sequence[Detections]) -> list[str]:
    """What cannot be known of classes that a detector gives by their indices; nothing where scores tell their number.

    `answers` are the detections of the source in all images.
    """
    try:
        counted = detections.class_count(output_task.blank_outputs(model), model.decoding) is not None
    except BadInput:  # rows of unknown number, which the shapes alone do not tell from channels
        counted = True
    if counted:
        return []
    largest = max((int(each.classes.max(initial=-1)) for each in answers), default=-1)
    named = len(labelled.classes)
    if largest >= named:
        return [f"{model.name} finds objects of the class {largest}, and the labels name {named} classes from 0 on"]
    return [f"the classes that {model.name} finds are counted as the {named} of the labels: the outputs do not tell"]
