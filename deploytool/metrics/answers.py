"""What the outputs for some pictures are, in the form that ready metrics take: one answer for each picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from deploytool.data.batches import Batch
from deploytool.data.golden import Arrays
from deploytool.spec import Model, Task
from deploytool.tasks import detections, interpret, segmentation


def read(task: Task, model: Model, outputs: Arrays, batch: Batch) -> list[Any]:
    """The answers of a batch; boxes and masks are in pixels of the pictures.

    Raises BadInput for outputs that are not those of the task.
    """
    return _READERS[task](model, outputs, batch)


def _objects(model: Model, outputs: Arrays, batch: Batch) -> list[Any]:
    found = detections.decode(outputs, model.decoding, batch.size)
    return [
        replace(each, boxes=place.to_picture(each.boxes)) for each, place in zip(found, batch.placements, strict=True)
    ]


def _maps(model: Model, outputs: Arrays, batch: Batch) -> list[Any]:
    _, found = segmentation.class_maps(outputs)
    mapped = (place.map_to_picture(each) for each, place in zip(found, batch.placements, strict=True))
    return [each.astype(np.int16) for each in mapped]


def _tokens(model: Model, outputs: Arrays, batch: Batch) -> list[Any]:
    names = dict(enumerate(model.classes))
    return [tuple(names.get(token, str(token)) for token in row) for row in interpret.tokens(outputs).tolist()]


_READERS: Mapping[Task, Callable[[Model, Arrays, Batch], list[Any]]] = {
    Task.CLASSIFY: lambda model, outputs, batch: list(interpret.class_scores(outputs)),
    Task.DETECT: _objects,
    Task.SEGMENT: _maps,
    Task.EMBED: lambda model, outputs, batch: list(interpret.embeddings(outputs)),
    Task.TOKENS: _tokens,
}
