"""Counts the parameters and multiply-accumulates of each layer: on torch's meta device, or from a graph's shapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deploytool.errors import StageFailed
from deploytool.loading import factory
from deploytool.loading.graph import layers
from deploytool.loading.graph.layers import Layer
from deploytool.spec import Model


@dataclass(frozen=True)
class Cost:
    """One convolution or fully connected layer at batch 1.

    A convolution of kernel K with g groups from C to N channels and an output of H × W has K²·(C/g)·N weights and
    K²·(C/g)·N·H·W multiply-accumulates: 1/g of a dense one. A depthwise convolution (g = C) and the pointwise one
    after it together have 1/N + 1/K² of those of the dense convolution they replace.
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
    """The cost of each convolution and fully connected layer in execution order; dynamic sizes count as 1.

    Raises StageFailed if the model does not run on torch's meta device, BadInput if the shapes of a given graph cannot
    be inferred.
    """
    if model.given is not None:
        return tuple(_of_node(layer) for layer in layers.find(model))
    with torch.device("meta"):
        module: nn.Module = factory.resolve(model.factory)(**model.options).eval()
        shapes = [[size if isinstance(size, int) else 1 for size in tensor.shape] for tensor in model.inputs]
        inputs = [torch.empty(shape) for shape in shapes]
    layer_costs: list[Cost] = []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, out, name=name: layer_costs.append(_cost(name, layer, out)))
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    try:
        module(*inputs)
    except Exception as error:  # user code may raise anything
        problem = f"{model.name} cannot be counted on the meta device: {error}"
        raise StageFailed(problem, "check --input and --arg") from error
    for hook in hooks:
        hook.remove()
    return tuple(layer_costs)


def _of_node(layer: Layer) -> Cost:
    """The cost of a node of a given graph."""
    if layer.operator not in ("Conv", "ConvTranspose"):
        return Cost(layer.name, "fully connected", layer.output, 1, 1, layer.parameters, layer.macs)
    channels, kernel = layer.weight[0 if layer.operator == "ConvTranspose" else 1], layer.weight[2:]
    is_depthwise = layer.groups > 1 and (channels == 1 if layer.operator == "Conv" else channels == layer.groups)
    shape = "pointwise" if set(kernel) == {1} else "convolution"
    kind = "depthwise" if is_depthwise else f"{'grouped ' if layer.groups > 1 else ''}{shape}"
    return Cost(layer.name, kind, layer.output, max(kernel, default=1), layer.groups, layer.parameters, layer.macs)


def _cost(name: str, layer: nn.Module, output: Tensor) -> Cost:
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    parameters = sum(parameter.numel() for parameter in layer.parameters())
    macs, shape = output.numel() * layer.weight[0].numel(), tuple(output.shape[1:])
    if isinstance(layer, nn.Linear):
        return Cost(name, "fully connected", shape, 1, 1, parameters, macs)
    return Cost(name, _kind(layer), shape, layer.kernel_size[0], layer.groups, parameters, macs)


def _kind(layer: nn.Conv2d) -> str:
    if layer.groups == layer.in_channels > 1:
        return "depthwise"
    shape = "pointwise" if layer.kernel_size == (1, 1) else "convolution"
    return f"{'grouped ' if layer.groups > 1 else ''}{shape}"
