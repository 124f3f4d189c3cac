"""Fault: a token is dropped, or another one is taken as the summary of all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from deploytool.faults.kinds import attention
from deploytool.faults.kinds.attention import Attention
from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """The last key of every attention lost, the last token of an input lost, and the summary taken from a neighbour."""
    candidates = [fault for found in attention.find(graph) for fault in _last_key(graph, found)]
    candidates += [_last_token(name, length) for name, length in _sequences(graph)]
    candidates += [_neighbour(graph, node) for node in graph.nodes("Gather") if _summarises(graph, node)]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _last_key(graph: FaultGraph, found: Attention) -> list[Fault]:
    """The last key and its value replaced by those before; none where their number is not known or they are weights."""
    products = [graph.producer(tensor) for tensor in (found.scores, found.mixed)]
    keys, values = (str(product.input[1]) for product in products if product is not None)
    shape = graph.shapes.get(values, [])
    if len(shape) < 3 or shape[-2] < 2 or graph.has_weight(keys) or graph.has_weight(values):
        return []
    axes = {keys: len(shape) - 1, values: len(shape) - 2}
    order = _without_last(shape[-2])

    def plant(faulty: FaultGraph) -> None:
        for tensor, axis in axes.items():
            faulty.insert(tensor, "Gather", order, axis)

    return [Fault(f"last key of {found.scores}", plant)]


def _sequences(graph: FaultGraph) -> Iterator[tuple[str, int]]:
    """The inputs that are sequences of token numbers, with their length."""
    for value in graph.model.graph.input:
        sides = value.type.tensor_type.shape.dim
        is_whole = value.type.tensor_type.elem_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
        if is_whole and len(sides) == 2 and sides[1].dim_value > 1:
            yield value.name, sides[1].dim_value


def _last_token(name: str, length: int) -> Fault:
    order = _without_last(length)
    return Fault(f"last token of {name}", lambda faulty: faulty.insert(name, "Gather", order, 1))


def _without_last(length: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Indices with the last one replaced by that before, so that no shape changes."""
    return np.minimum(np.arange(length), length - 2)


def _summarises(graph: FaultGraph, node: onnx.NodeProto) -> bool:
    """Whether a node takes one token of a sequence."""
    axis, shape = attribute(node, "axis"), graph.shapes.get(node.input[0], [])
    is_token = axis is not None and axis.i == 1 and len(shape) == 3 and shape[1] > 1
    return is_token and graph.has_weight(node.input[1]) and graph.weight(node.input[1]).size == 1


def _neighbour(graph: FaultGraph, node: onnx.NodeProto) -> Fault:
    output, index, length = node.output[0], graph.weight(node.input[1]), graph.shapes[node.input[0]][1]
    other = np.where(index % length < length - 1, index % length + 1, length - 2)

    def plant(faulty: FaultGraph) -> None:
        gather = faulty.producer(output)
        assert gather is not None
        gather.input[1] = f"{output}/neighbour"
        faulty.put(gather.input[1], other)

    return Fault(output, plant)
