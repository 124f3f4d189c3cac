"""Corrects biases by the mean error that quantisation gives each output channel on calibration data.

Rounded weights move the mean of a channel, most of all in depthwise convolutions, where few weights make a sum. What a
layer itself adds is corrected: the difference to the FP32 layer on the same quantised input. Corrections of the whole
difference to the FP32 graph would count what earlier layers pass on again in each later one: on three small networks
they made it larger before they made it smaller.
Source: M. Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from deploytool.backends.session import Array
from deploytool.precision.int8 import activations
from deploytool.precision.int8.activations import Batches
from deploytool.rewrites.graph import weights

_BESIDE = "reference of "  # no exporter begins a name so
_HEAVY = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True)
class _Layer:
    """A layer: its node in the FP32 graph; its input, output and bias in the other, and the step of one in the bias."""

    name: str
    node: NodeProto
    reads: str
    output: str
    bias: str
    step: Array


@dataclass(frozen=True)
class Corrected:
    """The corrected graph, its layers, and the root mean square of their mean errors before and after.

    A channel's error is relative to the root mean square of all channels of its layer.
    """

    graph: ModelProto
    layers: tuple[str, ...]
    before: float
    after: float


def correct(source: ModelProto, quantized: ModelProto, batches: Sequence[Mapping[str, Array]]) -> Corrected:
    """The QDQ graph with biases that give every channel the mean of the FP32 layer; the given one is not changed.

    A layer is corrected if a node of its name is in both graphs and its weights and bias are constant. The batches are
    run once through the FP32 graph and three times through the other; without a gain the graph remains as it is.
    """
    layers = _layers(source, quantized)
    names = tuple(layer.name for layer in layers)
    means = _means(source, tuple(layer.node.output[0] for layer in layers), batches)
    wanted = {layer.output: means[layer.node.output[0]] for layer in layers}
    before = _size(_means(quantized, tuple(wanted), batches, optimise=False), wanted)
    if not layers or not before:
        return Corrected(quantized, names, before, before)
    beside, references = _with_references(source, quantized, layers)
    own = _means(beside, (*wanted, *references.values()), batches, optimise=False)
    errors = {layer.bias: own[layer.output] - own[references[layer.output]] for layer in layers}
    corrected = _shifted(quantized, {layer.bias: errors[layer.bias] / layer.step for layer in layers})
    after = _size(_means(corrected, tuple(wanted), batches, optimise=False), wanted)
    if after >= before:
        return Corrected(quantized, names, before, before)
    return Corrected(corrected, names, before, after)


def _with_references(
    source: ModelProto, quantized: ModelProto, layers: Sequence[_Layer]
) -> tuple[ModelProto, dict[str, str]]:
    """The QDQ graph with the FP32 layers beside its own, on the same inputs, and their outputs by those of its own."""
    beside = ModelProto()
    beside.CopyFrom(quantized)
    held = {weight.name: weight for weight in source.graph.initializer}
    references = {}
    for layer in layers:
        node = NodeProto()
        node.CopyFrom(layer.node)
        wide = f"{_BESIDE}{layer.output} in FP32"  # where the rest of the graph is FP16, so is the input
        beside.graph.node.append(helper.make_node("Cast", [layer.reads], [wide], wide, to=TensorProto.FLOAT))
        node.name, node.output[0] = _BESIDE + layer.name, _BESIDE + layer.output
        node.input[:] = [wide, *(_BESIDE + name for name in layer.node.input[1:])]
        beside.graph.node.append(node)
        references[layer.output] = node.output[0]
    used = {name for layer in layers for name in layer.node.input[1:]}
    beside.graph.initializer.extend(weights.renamed(held[name], _BESIDE + name) for name in sorted(used))
    return beside, references


def _layers(source: ModelProto, quantized: ModelProto) -> list[_Layer]:
    """The convolutions and products of both graphs whose bias is a weight that nothing else reads."""
    originals = {(node.op_type, node.name): node for node in source.graph.node if node.op_type in _HEAVY and node.name}
    held = {weight.name: weight for weight in quantized.graph.initializer}
    producers = {name: node for node in quantized.graph.node for name in node.output}
    readers = Counter(name for node in quantized.graph.node for name in node.input)
    constant = {weight.name for weight in source.graph.initializer}
    found = []
    for node in quantized.graph.node:
        original = originals.get((node.op_type, node.name))
        if original is None or len(node.input) < 3 or not constant.issuperset(original.input[1:]):
            continue
        bias = _bias(node.input[2], producers, held)
        if bias is not None and readers[bias[0]] == 1:
            found.append(_Layer(node.name, original, node.input[0], node.output[0], *bias))
    return found


def _bias(name: str, producers: Mapping[str, NodeProto], held: Mapping[str, TensorProto]) -> tuple[str, Array] | None:
    """The weight that a layer reads as its bias, one number for each channel, and the step of one in it."""
    if name in held:
        return (name, np.ones(1)) if len(held[name].dims) == 1 else None
    node = producers.get(name)
    if node is None or node.op_type != "DequantizeLinear" or not {node.input[0], node.input[1]} <= held.keys():
        return None
    stored = held[node.input[0]]
    if stored.data_type != TensorProto.INT32 or len(stored.dims) != 1:
        return None
    return stored.name, np.asarray(weights.values(held[node.input[1]]), np.float64)


def _means(graph: ModelProto, tensors: tuple[str, ...], batches: Batches, *, optimise: bool = True) -> dict[str, Array]:
    """The mean of each channel, the second axis of each tensor, over all cases and positions."""
    sums: dict[str, Array] = {}
    runs = 0
    for values in activations.run(graph, tensors, batches, optimise=optimise):
        runs += 1
        for name, array in values.items():
            mean = array.astype(np.float64).mean((0, *range(2, array.ndim)))
            sums[name] = sums.get(name, 0.0) + mean
    return {name: total / runs for name, total in sums.items()}


def _size(means: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """The root mean square of the errors of all means, each relative to its layer."""
    relative = [(means[name] - mean) / (np.sqrt(np.mean(mean**2)) or 1.0) for name, mean in wanted.items()]
    return float(np.sqrt(np.mean(np.concatenate(relative) ** 2))) if relative else 0.0


def _shifted(graph: ModelProto, shifts: Mapping[str, Array]) -> ModelProto:
    """A copy of the graph with the shifts subtracted from the weights of these names."""
    copy = ModelProto()
    copy.CopyFrom(graph)
    for weight in copy.graph.initializer:
        if weight.name not in shifts:
            continue
        old = weights.values(weight)
        new = old.astype(np.float64) - shifts[weight.name]
        new = np.rint(new).clip(-(2**31), 2**31 - 1) if old.dtype.kind == "i" else new
        weight.CopyFrom(numpy_helper.from_array(new.astype(old.dtype), weight.name))
    return copy
