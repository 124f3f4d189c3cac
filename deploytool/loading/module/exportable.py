"""The model as exporters take it: its inputs by position under their names, its chosen outputs as one flat tuple."""

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


def exportable(module: nn.Module, model: Model, made: Any) -> nn.Module:
    """A module of the same parts whose forward takes the inputs of `model` and gives its outputs, in their order.

    `made` is what the module answers with, None where nobody asked: if that is flat, and forward takes the inputs as
    they stand, it is the module itself. Parameters and submodules keep their names: those of a graph are the user's.
    """
    names = [tensor.name for tensor in model.inputs]
    bound = arguments.bind(module.forward, names)
    fitting = bound.placed == tuple(names) and bound.exact and not bound.named
    if fitting and (isinstance(made, torch.Tensor) or _flat(made, len(model.outputs))):
        return module
    return _Exportable(module, model, bound)


class _Exportable(nn.Module):
    """Shares all parts with the module it stands for, which itself is no part of it: no name gets a prefix.

    The forward is as plain as can be: torch.export may have to follow it line by line.
    """

    def __init__(self, module: nn.Module, model: Model, bound: BoundArguments) -> None:
        super().__init__()
        for kind in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            object.__setattr__(self, kind, getattr(module, kind))
        object.__setattr__(self, "training", module.training)
        hooked = module._forward_hooks or module._forward_pre_hooks
        called = module if hooked else module.forward
        names = [tensor.name for tensor in model.inputs]
        placed = [names.index(name) for name in bound.placed]
        keyed = [(parameter, names.index(name)) for parameter, name in bound.named.items()]
        count = len(model.outputs)

        def call(given: tuple[torch.Tensor, ...]) -> Any:
            made = called(*[given[place] for place in placed], **{name: given[place] for name, place in keyed})
            if isinstance(made, torch.Tensor):
                return made
            return _apart(made if _flat(made, count) else select_outputs(made, model))

        object.__setattr__(self, "forward", _of(call, len(names)))


def _of(call: Callable[[tuple[torch.Tensor, ...]], Any], count: int) -> Callable[..., Any]:
    """A function of so many parameters, each by itself: exporters count them, and take none for several."""
    each = ", ".join(f"input_{place}" for place in range(count))
    made: dict[str, Any] = {"__name__": __name__}
    exec(f"def maker(call):\n    def forward({each}):\n        return call(({each},))\n    return forward", made)
    forward: Callable[..., Any] = made["maker"](call)
    return forward


def _flat(made: Any, count: int) -> bool:
    """Whether it is a tuple or list of just so many tensors, all of which are outputs then."""
    plain = type(made) in (tuple, list) and len(made) == count
    return plain and all(isinstance(each, torch.Tensor) for each in made)


def _apart(made: Sequence[torch.Tensor]) -> Any:
    """The outputs, one that stands there twice copied: a graph gives each a name of its own."""
    own = [each.clone() if any(each is other for other in made[:place]) else each for place, each in enumerate(made)]
    return own[0] if len(own) == 1 else tuple(own)


def select_outputs(made: Any, model: Model) -> list[torch.Tensor]:
    """The outputs of `model` among what it made: by name, or in their order where there are as many.

    Raises StageFailed if it has others.
    """
    found = outputs.flatten(made, [tensor.name for tensor in model.inputs]).tensors
    names = [tensor.name for tensor in model.outputs]
    if all(name in found for name in names):
        return [found[name] for name in names]
    if len(names) == len(found):
        return list(found.values())
    missing = next(name for name in names if name not in found)
    problem = f"{model.name} gives {', '.join(found) or 'no tensor'} this time, and {missing} at others"
    raise StageFailed(problem, "let it give the same outputs for all inputs")


@contextmanager
def without_attention_fastpath() -> Iterator[None]:
    """Attention as separate operations: the fused ones, taken where nothing needs gradients, have no ONNX operator."""
    usual = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(usual)
