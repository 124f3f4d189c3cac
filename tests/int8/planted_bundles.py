"""Faults in the INT8 graph of a bundle: each gives the bytes of a graph that computes something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

Rng = np.random.Generator
Fault = Callable[[ModelProto, Rng], None]


def _constants(model: ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _set(model: ModelProto, name: str, values: npt.NDArray[Any]) -> None:
    stored = _constants(model)[name]
    stored.CopyFrom(numpy_helper.from_array(np.asarray(values, numpy_helper.to_array(stored).dtype), name))


def _value(model: ModelProto, name: str) -> npt.NDArray[Any]:
    return numpy_helper.to_array(_constants(model)[name])


def _activations(model: ModelProto) -> list[NodeProto]:
    """The nodes that quantise an activation."""
    constants = _constants(model)
    return [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in constants]


def _weights(model: ModelProto) -> list[NodeProto]:
    """The nodes that dequantise an 8-bit weight with one scale a channel."""
    constants = _constants(model)
    found = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants]
    return [
        node for node in found if _value(model, node.input[0]).itemsize == 1 and _value(model, node.input[1]).size > 1
    ]


def _pick(nodes: list[NodeProto], rng: Rng) -> NodeProto:
    return nodes[int(rng.integers(len(nodes)))]


def wrong_scale(model: ModelProto, rng: Rng) -> None:
    """A scale that only the quantising or only the dequantising side has: the values come back larger or smaller."""
    node = _pick(_activations(model), rng)
    own = f"{node.output[0]}_other_scale"
    factor = float(rng.choice([0.5, 0.8, 1.25, 2.0]))
    scale = _value(model, node.input[1])
    scaled = np.asarray(scale * scale.dtype.type(factor), scale.dtype)
    model.graph.initializer.append(numpy_helper.from_array(scaled, own))
    node.input[1] = own


def stale_scale(model: ModelProto, rng: Rng) -> None:
    """A scale of a range that the tensor no longer has: both sides clip it to a quarter."""
    node = _pick(_activations(model), rng)
    _set(model, node.input[1], _value(model, node.input[1]) / 4)


def swapped_scales(model: ModelProto, rng: Rng) -> None:
    """The scales of two tensors, at least half as large again as each other, in each other's place."""
    names = sorted({node.input[1] for node in _activations(model)})
    scales = {name: float(_value(model, name)) for name in names}
    pairs = [(a, b) for a in names for b in names if scales[a] >= 1.5 * scales[b]]
    first, second = pairs[int(rng.integers(len(pairs)))]
    _set(model, first, np.asarray(scales[second]))
    _set(model, second, np.asarray(scales[first]))


def swapped_channels(model: ModelProto, rng: Rng) -> None:
    """The scales of a weight in reverse order."""
    node = _pick(_weights(model), rng)
    _set(model, node.input[1], _value(model, node.input[1])[::-1])


def flipped_zero_point(model: ModelProto, rng: Rng) -> None:
    """A zero point at the other end of the integers, on the side that dequantises."""
    by_codes = {node.output[0]: node for node in _activations(model)}
    readers = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in by_codes]
    node = _pick(readers, rng)
    ends, zero = np.iinfo(_value(model, node.input[2]).dtype), int(_value(model, node.input[2]))
    flipped = ends.max + ends.min - zero
    flipped = zero + 64 if abs(flipped - zero) < 16 else flipped
    own = f"{node.output[0]}_other_zero"
    dtype = _value(model, node.input[2]).dtype
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(flipped, dtype), own))
    node.input[2] = own


def shifted_weights(model: ModelProto, rng: Rng) -> None:
    """The weights of a layer as if they were unsigned."""
    node = _pick(_weights(model), rng)
    codes = _value(model, node.input[0]).astype(np.int16)
    _set(model, node.input[0], np.clip(codes + 32, -128, 127))


FAULTS: Mapping[str, Fault] = {
    "wrong scale": wrong_scale,
    "stale scale": stale_scale,
    "swapped scales": swapped_scales,
    "swapped channels": swapped_channels,
    "flipped zero point": flipped_zero_point,
    "shifted weights": shifted_weights,
}


def planted(graph: bytes, fault: str, seed: int) -> bytes:
    """The bytes of a graph with a fault at a random place."""
    model = onnx.load_from_string(graph)
    FAULTS[fault](model, np.random.default_rng(seed))
    return bytes(model.SerializeToString())
