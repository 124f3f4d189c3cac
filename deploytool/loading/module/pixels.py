"""Makes a module take pixels (uint8) as its images, and normalise them as `data.images.normalise` does on a host."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
from torch import nn

from deploytool.loading.module import arguments
from deploytool.spec import Model, Option, Preprocessing, Tensor


def taking(module: nn.Module, model: Model) -> nn.Module:
    """A module that takes the inputs of `model` by position, and its images as pixels.

    It has the type, weights, submodules and hooks of `module`, which stays as it is: a factory may return it again. For
    a model without `normalisation` it is `module` itself.
    """
    how = model.normalisation
    if how is None:
        return module
    names = [tensor.name for tensor in model.inputs]
    own = {tensor.name: tensor for tensor in model.normalised}
    steps = [_Normaliser(own[name], how, model.preprocessing.layout) if name in own else _unchanged for name in names]
    bound, changed = arguments.bind(module.forward, names, model.constants), copy.copy(module)
    hooked = bool(module._forward_hooks or module._forward_pre_hooks)

    def convert(_: nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(step(tensor) for step, tensor in zip(steps, inputs, strict=True))

    def forward(*inputs: torch.Tensor, **_: Option) -> Any:
        converted = inputs if hooked else convert(changed, inputs)
        return bound.call(inner, dict(zip(names, converted, strict=True)))

    inner = _forward_of(changed, module)
    for kind in ("_forward_pre_hooks", "_forward_hooks"):  # those of the copy alone
        object.__setattr__(changed, kind, getattr(module, kind).copy())
    if hooked:  # the hooks of the model get images, as they expect
        changed.register_forward_pre_hook(convert, prepend=True)
    object.__setattr__(changed, "forward", forward)
    return changed


def _forward_of(changed: nn.Module, module: nn.Module) -> Callable[..., Any]:
    """The forward of a module for its copy, so that what it stores in itself is stored in the copy."""
    forward: Callable[..., Any] = module.forward
    is_method = isinstance(forward, MethodType) and forward.__self__ is module
    return MethodType(forward.__func__, changed) if is_method else forward  # type: ignore[attr-defined]  # a method


def _unchanged(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


class _Normaliser:
    """Converts pixels (uint8, batch × 4 axes) to an image input of the model.

    The first step is the cast, which is the only operator that TensorRT has for uint8. Steps without effect are left
    out.
    """

    def __init__(self, tensor: Tensor, how: Preprocessing, layout: str) -> None:
        self._dtype: torch.dtype = getattr(torch, tensor.dtype)
        self._order = [layout.index(axis) for axis in how.layout] if layout != how.layout else None
        self._axis = how.layout.index("C")
        is_reversed = how.channels == "BGR" and tensor.channels(how.layout) == 3
        self._reversed = torch.tensor([2, 1, 0]) if is_reversed else None
        self._scale = self._numbers((how.scale,), 1.0)
        self._mean, self._std = self._numbers(how.mean, 0.0), self._numbers(how.std, 1.0)

    def _numbers(self, values: Sequence[float], neutral: float) -> torch.Tensor | None:
        """The numbers in FP32 along the axis of the channels; None if they change nothing."""
        if all(value == neutral for value in values):
            return None
        sides = [len(values) if axis == self._axis else 1 for axis in range(4)]
        return torch.tensor(values, dtype=torch.float32).reshape(sides)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """The normalised images in the model's layout and type."""
        made = pixels.to(torch.float32)
        if self._order is not None:
            # kernels for other memory formats add in another order; contiguous() leaves one channel as it is
            made = made.permute(self._order).clone(memory_format=torch.contiguous_format)
        if self._reversed is not None:
            made = made.index_select(self._axis, _on(made, self._reversed))
        if self._scale is not None:
            made = made * _on(made, self._scale)
        if self._mean is not None:
            made = made - _on(made, self._mean)
        if self._std is not None:
            made = made / _on(made, self._std)
        return made if self._dtype is torch.float32 else made.to(self._dtype)


def _on(tensor: torch.Tensor, constant: torch.Tensor) -> torch.Tensor:
    """A constant on the device of a tensor."""
    return constant if constant.device == tensor.device else constant.to(tensor.device)
