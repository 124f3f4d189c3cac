"""Models whose weights are FP64: they run in FP32, and their reference in FP64 has the weights as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from deploytool.spec import Model, Tensor

REMARK = (
    "{} has its weights in FP64: every file has them in FP32 or narrower, with FP32 in the place of FP64 inputs and "
    "outputs, and is compared with the weights as they are"
)
REMEDY = "cast to the type of the weights, as in x.to(self.weight.dtype), and not to a fixed one such as .double()"


def is_double(state: Mapping[str, Any]) -> bool:
    """Whether most of the floating-point elements of a state dict are FP64."""
    floats = [value for value in state.values() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    wide = sum(value.numel() for value in floats if value.dtype == torch.float64)
    return 2 * wide > sum(value.numel() for value in floats)


def in_single(model: Model) -> Model:
    """The model with FP32 inputs in the place of FP64 ones, also as those that it normalises pixels to."""
    return replace(
        model, inputs=tuple(map(_in_single, model.inputs)), normalised=tuple(map(_in_single, model.normalised))
    )


def _in_single(tensor: Tensor) -> Tensor:
    return replace(tensor, dtype="float32") if tensor.dtype == "float64" else tensor


def load(module: nn.Module, state: Mapping[str, Any], *, exact: bool) -> nn.Module:
    """The module with the weights of a state dict: FP64 ones in FP64 with `exact`, otherwise rounded to FP32.

    Weights of other types keep the type of the module. Raises what `load_state_dict` raises.
    """
    wide = is_double(state)
    if wide and exact:
        module.double()
    module.load_state_dict(state)
    return module.float() if wide and not exact else module


@contextmanager
def own_default_dtype() -> Iterator[None]:
    """Restores torch's default type at the end: code that changes it means its own model, and not the whole process."""
    before = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(before)
