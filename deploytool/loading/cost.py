"""What a model costs, layer by layer, by the formulas of the papers; no weight is made and nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deploytool.errors import StageFailed
from deploytool.loading import factory
from deploytool.spec import Model


@dataclass(frozen=True)
class Cost:
    """One convolution or fully connected layer at batch 1.

    A convolution of kernel K with g groups from C to N channels, on an output of H × W, has K²·(C/g)·N weights and
    needs K²·(C/g)·N·H·W multiply-accumulates: 1/g of a dense one. A depthwise convolution (g = C) and the pointwise
    one behind it need together 1/N + 1/K² of the dense convolution they replace.
    Sources: arXiv 1707.01083, 1704.04861.
    """

    layer: str
    kind: str
    output: tuple[int, ...]
    kernel: int
    groups: int
    parameters: int
    macs: int


def costs(model: Model) -> tuple[Cost, ...]:
    """The cost of every convolution and fully connected layer, in the order they run; a free size counts as 1.

    Raises StageFailed if the model does not run without weights, on torch's meta device.
    """
    with torch.device("meta"):
        module: nn.Module = factory.resolve(model.factory)(**model.options).eval()
        inputs = [torch.empty([side if isinstance(side, int) else 1 for side in each.shape]) for each in model.inputs]
    found: list[Cost] = []
    hooks = [
        layer.register_forward_hook(lambda layer, given, out, name=name: found.append(_cost(name, layer, out)))
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    try:
        module(*inputs)
    except Exception as error:  # the user's own code may raise anything
        raise StageFailed(f"{model.name} cannot be counted: {error}", "see --input and --arg") from error
    for hook in hooks:
        hook.remove()
    return tuple(found)


def _cost(name: str, layer: nn.Module, output: Tensor) -> Cost:
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    parameters = sum(parameter.numel() for parameter in layer.parameters())
    macs, size = output.numel() * layer.weight[0].numel(), tuple(output.shape[1:])
    if isinstance(layer, nn.Linear):
        return Cost(name, "fully connected", size, 1, 1, parameters, macs)
    return Cost(name, _kind(layer), size, layer.kernel_size[0], layer.groups, parameters, macs)


def _kind(layer: nn.Conv2d) -> str:
    if layer.groups == layer.in_channels > 1:
        return "depthwise"
    shape = "pointwise" if layer.kernel_size == (1, 1) else "convolution"
    return f"{'grouped ' if layer.groups > 1 else ''}{shape}"
