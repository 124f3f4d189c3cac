"""Wraps a module for the exporters: inputs by position, the selected outputs as a flat tuple."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from deploytool.errors import StageFailed
from deploytool.loading.module import arguments, outputs
from deploytool.loading.module.arguments import BoundArguments
from deploytool.spec import Model


def exportable(module: nn.Module, model: Model, result: Any) -> nn.Module:
    """A module whose forward takes the inputs of `model` by position and returns its outputs in order.

    result: what the module returns, None if unknown. If it is flat, and forward takes the inputs by position, the
    module itself is returned. Parameters and submodules keep their names, which appear in the graph.
    """
    names = [tensor.name for tensor in model.inputs]
    bound = arguments.bind(module.forward, names, model.constants)
    by_position = bound.positional == tuple(names) and bound.exact and not bound.keywords
    batch_first = not any(tensor.batch_axis for tensor in model.outputs)
    if by_position and batch_first and (isinstance(result, torch.Tensor) or _is_flat(result, len(model.outputs))):
        return module
    return _Exportable(module, model, bound)


class _Exportable(nn.Module):
    """Shares parameters and submodules with the original module, without being its parent: names get no prefix.

    The forward is kept simple because torch.export traces it line by line.
    """

    def __init__(self, module: nn.Module, model: Model, bound: BoundArguments) -> None:
        super().__init__()
        for kind in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            object.__setattr__(self, kind, getattr(module, kind))
        object.__setattr__(self, "training", module.training)
        hooked = module._forward_hooks or module._forward_pre_hooks
        forward = module if hooked else module.forward
        names = [tensor.name for tensor in model.inputs]
        count, batch_first = len(model.outputs), not any(tensor.batch_axis for tensor in model.outputs)

        def call(inputs: tuple[torch.Tensor, ...]) -> Any:
            result = bound.call(forward, dict(zip(names, inputs, strict=True)))
            if batch_first and isinstance(result, torch.Tensor):
                return result
            flat = batch_first and _is_flat(result, count)
            return _without_aliases(result if flat else select_outputs(result, model))

        object.__setattr__(self, "forward", _with_parameters(call, len(names)))


def _with_parameters(call: Callable[[tuple[torch.Tensor, ...]], Any], count: int) -> Callable[..., Any]:
    """A function with `count` separate parameters that calls `call`: exporters do not accept `*inputs`."""
    parameters = ", ".join(f"input_{index}" for index in range(count))
    namespace: dict[str, Any] = {"__name__": __name__}
    source = (
        f"def maker(call):\n    def forward({parameters}):\n        return call(({parameters},))\n    return forward"
    )
    exec(source, namespace)
    forward: Callable[..., Any] = namespace["maker"](call)
    return forward


def _is_flat(result: Any, count: int) -> bool:
    """Whether `result` is a tuple or list of exactly `count` tensors."""
    is_sequence = type(result) in (tuple, list) and len(result) == count
    return is_sequence and all(isinstance(tensor, torch.Tensor) for tensor in result)


def _without_aliases(tensors: Sequence[torch.Tensor]) -> Any:
    """The outputs with repeated tensors cloned: in a graph, each output needs its own name."""
    distinct = [
        tensor.clone() if any(tensor is earlier for earlier in tensors[:number]) else tensor
        for number, tensor in enumerate(tensors)
    ]
    return distinct[0] if len(distinct) == 1 else tuple(distinct)


def select_outputs(result: Any, model: Model) -> list[torch.Tensor]:
    """The outputs of `model` in what it returned: by name, or all in order if their number fits; the batch first.

    Raises StageFailed if an output is missing.
    """
    selected = _selected(result, model)
    return [
        tensor.movedim(declared.batch_axis, 0) if 0 < declared.batch_axis < tensor.dim() else tensor
        for tensor, declared in zip(selected, model.outputs, strict=True)
    ]


def _selected(result: Any, model: Model) -> list[torch.Tensor]:
    tensors = outputs.flatten(result, [tensor.name for tensor in model.inputs]).tensors
    names = [tensor.name for tensor in model.outputs]
    if all(name in tensors for name in names):
        return [tensors[name] for name in names]
    if len(names) == len(tensors):
        return list(tensors.values())
    missing = next(name for name in names if name not in tensors)
    problem = f"{model.name} returns {', '.join(tensors) or 'no tensor'} for some inputs, and {missing} for others"
    raise StageFailed(problem, "return the same outputs for all inputs")


@contextmanager
def without_attention_fastpath() -> Iterator[None]:
    """Disables torch's fused attention, which is used where no gradients are needed and has no ONNX operator."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
