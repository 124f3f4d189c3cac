"""Settles what the outputs of a model mean, where their names and shapes tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.errors import BadInput
from deploytool.spec import DECODE_OPTION, Decoding, Model, Task
from deploytool.tasks import interpret, layouts

_CASES = 2
_DIMENSIONS_OF_SCORES = 2  # cases and classes
_TOLD: Mapping[Task | None, str] = {
    Task.DETECT: "objects",
    Task.SEGMENT: "classes of pixels",
}  # tasks that change what is compared or printed, with what the outputs are


def settle(model: Model) -> tuple[Model, tuple[str, ...]]:
    """The model with its task and decoding, and a remark if they are told from its outputs.

    Fields of the decoding that the user stated stay; the others are those that such outputs usually have.
    """
    outputs = blank_outputs(model)
    remarks: tuple[str, ...] = ()
    guessed = interpret.guess(outputs) if model.task is None else None
    if guessed in _TOLD:
        model, remarks = (
            replace(model, task=guessed),
            (f"the outputs are {_TOLD[guessed]}, as their names say; --task says otherwise",),
        )
    if model.task is Task.DETECT:
        stated = [option.split()[1] for option in model.asked if option.startswith(DECODE_OPTION)]
        model = replace(model, decoding=_decoding(model, outputs, stated))
    return model, remarks


def blank_outputs(model: Model) -> dict[str, npt.NDArray[Any]]:
    """Zeros in the shapes of the outputs, which tell most layouts; dynamic dimensions have the length of the batch."""
    return {
        tensor.name: np.zeros([_CASES if isinstance(side, str) else side for side in tensor.shape], tensor.dtype)
        for tensor in model.outputs
    }


def decides(model: Model) -> Task:
    """What a model decides, for the agreement with its decisions: one output of scores is taken for classes.

    Raises BadInput where nothing tells it.
    """
    task = model.task or interpret.guess(blank_outputs(model))
    if task is None and len(model.outputs) == 1 and len(model.outputs[0].shape) == _DIMENSIONS_OF_SCORES:
        task = Task.CLASSIFY
    if task is None:
        problem = f"nothing says what the outputs of {model.name} mean, so that nothing could judge INT8"
        raise BadInput(problem, "add --task, or --metric FILE.py:score")
    return task


def _decoding(model: Model, outputs: Mapping[str, npt.NDArray[Any]], stated: Sequence[str]) -> Decoding:
    """What such outputs usually have, with the fields that are stated; unchanged for outputs of no known form."""
    try:
        usual = layouts.usual_decoding(outputs)
    except BadInput:  # a metric of the user's own may understand them
        return model.decoding
    return replace(usual, **{name: getattr(model.decoding, name) for name in stated})
