"""Whether the outputs of a model can be what its task says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.errors import BadInput
from deploytool.spec import Task
from deploytool.tasks import interpret, layouts, segmentation

Arrays = Mapping[str, npt.NDArray[Any]]

_MAPS = "select one output of shape (batch, classes, height, width) or (batch, height, width) with --output"
DECODED = (Task.DETECT, Task.SEGMENT, Task.TOKENS)  # of other tasks, `run` shows outputs of any form


def _check_maps(outputs: Arrays) -> None:
    """Raises BadInput unless one output has a map for each image; one array of scores may look like a single map."""
    name, maps = segmentation.class_maps(outputs)
    if len(maps) != len(outputs[name]):
        raise BadInput(f"the output {name} {outputs[name].shape} has no map of classes for each image", _MAPS)


_READERS: Mapping[Task, Callable[[Arrays], object]] = {
    Task.CLASSIFY: interpret.class_scores,
    Task.DETECT: layouts.recognise,
    Task.SEGMENT: _check_maps,
    Task.EMBED: interpret.embeddings,
    Task.TOKENS: interpret.tokens,
}


def check(task: Task, outputs: Arrays) -> None:
    """Raises BadInput for outputs, the batch first, that cannot be those of the task."""
    try:
        _READERS[task](outputs)
    except BadInput as error:
        raise BadInput(f"the task is {task}, but {error}", f"state another --task, or {error.remedy}") from error


def holds(task: Task, outputs: Arrays) -> bool:
    """Whether outputs can be those of the task."""
    try:
        check(task, outputs)
    except BadInput:
        return False
    return True


def shown(task: Task | None, outputs: Arrays) -> Task | None:
    """The task by which `run` shows such outputs; None where it shows them as they are."""
    return None if task in DECODED and not holds(task, outputs) else task


def map_classes(outputs: Arrays) -> int | None:
    """The number of classes of the map of scores among the outputs; None for a map of classes, which does not tell it.

    Raises BadInput if no output is a map, or several are.
    """
    name, _ = segmentation.class_maps({name: array[:1] for name, array in outputs.items()})
    array = outputs[name]
    return int(array.shape[1]) if array.ndim == 4 and np.issubdtype(array.dtype, np.floating) else None
