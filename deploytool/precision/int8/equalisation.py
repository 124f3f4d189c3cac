"""Equalises the channels of activations between two convolutions, so that one scale for all of them fits each.

If what lies between two convolutions commutes with positive factors for each channel, as ReLU and pooling do, the first
may give y_c / s_c and the second take s_c w_c: f(W1 x / s) s W2 = f(W1 x) W2. Weights are quantised for each output
channel, so that the factors cost the first convolution nothing. A depthwise second one takes all of a channel's factor
for nothing too; in any other one the columns of its weights share a scale, and the factor is divided among both.

All factors are powers of two: every product and sum is then scaled exactly, and the outputs keep their bits unless a
value becomes subnormal. Source: M. Nagel et al., "Data-free quantization through weight equalization and bias
correction", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto

from deploytool.precision.int8 import activations
from deploytool.precision.int8.activations import Batches
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution
from deploytool.rewrites.graph.editable import Array, EditableGraph, attributes

_LEAST = 2.0**-4  # a channel is amplified by at most 16: one that was small by chance would be clipped in use
_SCALED = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity")


@dataclass(frozen=True)
class _Pair:
    """Two convolutions and the nodes between them, in order."""

    first: Convolution
    between: tuple[NodeProto, ...]
    second: Convolution


def pairs(graph: ModelProto) -> tuple[str, ...]:
    """The outputs of the first convolutions of all pairs that can be equalised: the tensors to measure."""
    return tuple(pair.first.output for pair in _pairs(EditableGraph(graph)))


def channel_maxima(graph: ModelProto, tensors: tuple[str, ...], batches: Batches) -> dict[str, Array]:
    """The largest absolute value of each channel of feature maps (NCHW), on calibration data."""
    maxima: dict[str, Array] = {}
    for values in activations.run(graph, tensors, batches):
        for name, array in values.items():
            largest = np.abs(array).max((0, *range(2, array.ndim)))
            maxima[name] = np.maximum(maxima.get(name, largest), largest)
    return maxima


def equalise(graph: ModelProto, maxima: Mapping[str, Array]) -> tuple[ModelProto, tuple[str, ...]]:
    """The graph with equalised channels, and the names of the convolutions before them.

    `maxima` are those of `channel_maxima`; a pair whose tensor is not among them is left as it is. The graph is the
    same object if no channel changes.
    """
    editable = EditableGraph(graph, suffix="_equalised")
    found = [pair for pair in _pairs(editable) if pair.first.output in maxima]
    current: dict[str, Convolution] = {}
    changed: list[_Pair] = []
    for pair in found:
        first = current.get(pair.first.output, pair.first)
        second = current.get(pair.second.output, pair.second)
        factors = _factors(np.asarray(maxima[pair.first.output], np.float64), second)
        scaled_first, scaled_second = _scaled_outputs(first, 1 / factors), _scaled_inputs(second, factors)
        factors_hold = _is_exact(first, scaled_first) and _is_exact(second, scaled_second)
        if factors_hold and not (factors == 1).all():
            current |= {pair.first.output: scaled_first, pair.second.output: scaled_second}
            changed.append(pair)
    if not changed:
        return graph, ()
    _write(editable, changed, current)
    return editable.to_model(), tuple(pair.first.node.name for pair in changed)


def _pairs(graph: EditableGraph) -> list[_Pair]:
    """All convolutions whose output reaches exactly one other, through nodes that commute with factors."""
    found = []
    for first in convolution.read_all(graph):
        between: list[NodeProto] = []
        node = graph.only_consumer(first.output)
        while node is not None and node.op_type in _SCALED and len(node.output) == 1:
            between.append(node)
            node = graph.only_consumer(node.output[0])
        source = between[-1].output[0] if between else first.output
        second = convolution.read(graph, node)
        if second is not None and second.input == source and list(second.node.input).count(source) == 1:
            found.append(_Pair(first, tuple(between), second))
    return found


def _factors(largest: Array, second: Convolution) -> Array:
    """The power of two that each channel is divided by: 1 for the largest, less for those to be amplified."""
    if not largest.any():
        return np.ones(len(largest))
    share = largest / largest.max()
    if not second.is_depthwise():
        weight = np.abs(convolution.dense_weight(second)).max((0, 2, 3)).astype(np.float64)
        relative = weight / (weight.max() or 1.0)
        share = np.sqrt(np.divide(share, relative, out=np.zeros_like(share), where=relative > 0))
        share = np.minimum(share / (share.max() or 1.0), 1.0)
        share = np.maximum(share, largest / largest.max())  # so that no channel becomes larger than the largest was
    amplified = (largest > 0) & (share > 0)  # a channel without values stays as it is
    factors: Array = np.where(amplified, 2.0 ** np.ceil(np.log2(np.where(amplified, share, 1.0))), 1.0)
    return np.clip(factors, _LEAST, 1.0)


def _scaled_outputs(conv: Convolution, factors: Array) -> Convolution:
    weight = conv.weight * factors.reshape(-1, 1, 1, 1).astype(conv.weight.dtype)
    return replace(conv, weight=weight, bias=conv.bias * factors.astype(conv.bias.dtype))


def _scaled_inputs(conv: Convolution, factors: Array) -> Convolution:
    """The convolution with factors for each input channel; a group has those of its own inputs."""
    of_group = np.repeat(factors.reshape(conv.group, -1), conv.out_channels // conv.group, axis=0)
    return replace(conv, weight=conv.weight * of_group[..., None, None].astype(conv.weight.dtype))


def _is_exact(before: Convolution, after: Convolution) -> bool:
    """Whether the factors changed exponents only: no weight overflows or becomes subnormal."""
    for old, new in ((before.weight, after.weight), (before.bias, after.bias)):
        smallest = np.finfo(new.dtype).tiny
        if not np.isfinite(new).all() or ((new == 0) != (old == 0)).any():
            return False
        if (np.abs(new[new != 0]) < smallest).any():
            return False
    return True


def _write(graph: EditableGraph, changed: list[_Pair], current: Mapping[str, Convolution]) -> None:
    """Replaces the convolutions, and what lies after a changed one under new names, in the order of the graph."""
    renamed: dict[str, str] = {}
    equalised = {pair.first.output: pair for pair in changed}
    for output, conv in current.items():
        pair = equalised.get(output)
        old: list[NodeProto] = [conv.node]
        source = renamed.get(conv.input, conv.input)
        new = [convolution.write(graph, conv, source, "" if pair else output)]
        for node in pair.between if pair else ():
            inputs = [new[-1].output[0], *node.input[1:]]
            new.append(graph.make_node(node.op_type, node, inputs, **attributes(node)))
            old.append(node)
        if pair:
            renamed[pair.second.input] = new[-1].output[0]
        graph.replace(old, new)
