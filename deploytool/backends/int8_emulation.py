"""Runs a graph with Q/DQ nodes on the CPU as it is quantised: products of integers, summed without rounding.

A Q/DQ graph stands for integer arithmetic: (Σ (x - zx) (w - zw)) sx sw. ONNX Runtime without its optimisations computes
Σ ((x - zx) sx) ((w - zw) sw) in FP32, where each sum is rounded in an order of the kernel's own. This module rewrites
the graph first: convolutions and matrix products of dequantised tensors get the integers themselves, their sums are
exact, and scale and bias are applied in FP64 and rounded once. All other nodes stay, and run without optimisation.

So the results equal those of ONNX Runtime's unoptimised graph bit for bit wherever its sums in FP32 have no rounding
error, as with scales that are powers of two. Elsewhere an integer can differ by one step, where the value before
rounding is within that error of a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper

from deploytool.backends import onnxruntime
from deploytool.backends.session import Session
from deploytool.errors import MissingBackend, StageFailed
from deploytool.rewrites.graph import quantised_weights, storage, weights
from deploytool.rewrites.graph.editable import EditableGraph, attributes

Array = npt.NDArray[Any]

_LARGEST = 255  # of an 8-bit integer minus its zero point
_EXACT = 1 << 24  # FP32 adds integers without rounding up to this sum of magnitudes
_WEIGHT_BITS = (8, 4, 2, 1)  # of the parts of a weight, the fewest parts first
_REMEDY = "quantise activations to 8 bits; FP32 and FP16 graphs need no emulation of integers"


def fingerprint() -> str:
    """The version of ONNX Runtime, which computes the operators."""
    return onnxruntime.fingerprint()


@contextmanager
def start(path: Path | bytes, device: str = "cpu") -> Iterator[Session]:
    """Loads a graph with Q/DQ nodes on the CPU; raises StageFailed for convolutions of integers wider than 8 bits."""
    if device != "cpu":
        raise MissingBackend(f"integer arithmetic is not emulated on {device}", "use --runner onnxruntime there")
    model = onnx.load_from_string(path) if isinstance(path, bytes) else storage.load(path)
    parts = weights.session_parts(emulate(model))
    with onnxruntime.start(parts.message, optimise=False, weights=parts.arrays, folder=parts.folder) as session:
        yield session


def emulate(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the products of its dequantised tensors in exact integer arithmetic, under the same names.

    A product stays as it is if one of its factors is not dequantised, or by scales that are not constant, along the
    axis of the sum, or in blocks.
    """
    graph = EditableGraph(model)
    for node in list(graph.nodes):
        if node.op_type in _PRODUCTS:
            left, right = (_operand(graph, tensor) for tensor in node.input[:2])
            if left is not None and right is not None and _factors_out(node, left, right):
                graph.replace([node], _PRODUCTS[node.op_type](graph, node, left, right))
    return graph.to_model()


@dataclass(frozen=True)
class _Operand:
    """A dequantised factor: the tensor of its integers, and for a constant their values without the zero point.

    `scale` is FP64, one number or one a slice along `axis`; `element_type` is that of the dequantised tensor.
    """

    tensor: str
    values: Array | None
    zero: Array
    scale: npt.NDArray[np.float64]
    axis: int
    element_type: int


def _operand(graph: EditableGraph, tensor: str) -> _Operand | None:
    """The factor in a tensor; None if it is not dequantised by constants."""
    node = graph.producer(tensor)
    if node is None or node.op_type != "DequantizeLinear" or attributes(node).get("block_size", 0):
        return None
    scale = graph.constant(node.input[1])
    zero = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros((), np.uint8)
    if scale is None or zero is None or scale.ndim > 1:
        return None
    codes = quantised_weights.codes(graph, node.input[0])
    axis = int(attributes(node).get("axis", 1))
    if codes is None:
        shaped, values = zero.reshape(-1), None
        if shaped.size != 1 or scale.size != 1:
            return None
    else:
        shaped, axis = quantised_weights.along(zero, axis, codes.ndim), axis % max(codes.ndim, 1)
        values = codes.astype(np.float64) - shaped.astype(np.float64)
    kind = helper.np_dtype_to_tensor_dtype(scale.dtype)
    return _Operand(node.input[0], values, shaped, scale.astype(np.float64).reshape(-1), axis, kind)


def _factors_out(node: NodeProto, left: _Operand, right: _Operand) -> bool:
    """Whether the scales are constant in each sum, so that they can be applied to the sum."""
    if left.scale.size != 1:
        return False
    if right.scale.size == 1:
        return True
    assert right.values is not None  # only constants have a scale for each slice
    transposed = node.op_type == "Gemm" and attributes(node).get("transB", 0)
    return right.axis == {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, 0 if transposed else right.values.ndim - 1)


def _convolution(graph: EditableGraph, node: NodeProto, left: _Operand, right: _Operand) -> list[NodeProto]:
    """A convolution in FP32 for each part of the weights: no partial sum of any part has a rounding error."""
    if right.values is None or max(left.zero.dtype.itemsize, right.zero.dtype.itemsize) > 1:
        raise StageFailed(f"{node.op_type} {node.name} is no product of 8-bit activations and constants", _REMEDY)
    settings = {name: value for name, value in attributes(node).items() if value is not None}
    axis = 1 if node.op_type == "ConvTranspose" else 0
    nodes, integers = _integers(graph, node, left, TensorProto.FLOAT)
    total = ""
    for factor, part in _parts(right.values, axis):
        name = graph.add_weight(f"{right.tensor}/integers", part.astype(np.float32))
        product = graph.make_node(node.op_type, node, [integers, name], **settings)
        wide = graph.make_node("Cast", node, [product.output[0]], to=TensorProto.DOUBLE)
        weight = graph.add_weight(f"{right.tensor}/place", np.array(factor))
        placed = graph.make_node("Mul", node, [wide.output[0], weight])
        nodes += [product, wide, placed]
        if total:
            nodes.append(graph.make_node("Add", node, [total, placed.output[0]]))
        total = nodes[-1].output[0]
    groups = int(settings.get("group", 1)) if axis else 1
    channels = (1, -1, *[1] * (right.values.ndim - 2))
    scale = left.scale * (np.tile(right.scale, groups) if right.scale.size > 1 else right.scale)
    bias = node.input[2] if len(node.input) > 2 else ""
    return nodes + scaled_sum(graph, node, total, scale.reshape(channels), (bias, channels), left.element_type)


def _parts(values: Array, axis: int) -> list[tuple[float, Array]]:
    """The weights as a sum of (factor, part) such that FP32 adds 8-bit multiples of each part without rounding.

    Raises StageFailed if there are more weights in one sum than that can hold.
    """
    others = tuple(dim for dim in range(values.ndim) if dim != axis)
    for bits in _WEIGHT_BITS:
        base = float(1 << bits)
        rest, parts = values, []
        for place in range(8 // bits):
            last = place == 8 // bits - 1
            part = rest if last else np.mod(rest, base)  # the last part has the sign
            parts.append((base**place, part))
            rest = (rest - part) / base
        if all(_LARGEST * np.abs(part).sum(axis=others).max(initial=0) <= _EXACT for _, part in parts):
            return [(factor, part) for factor, part in parts if part.any()] or parts[:1]
    raise StageFailed(f"a sum of {values.size} products is too long to be computed exactly", _REMEDY)


def _matrix_product(graph: EditableGraph, node: NodeProto, left: _Operand, right: _Operand) -> list[NodeProto]:
    """A matrix product in FP64, which ONNX Runtime has for matrices but not for convolutions."""
    nodes, first = _integers(graph, node, left, TensorProto.DOUBLE)
    more, second = _integers(graph, node, right, TensorProto.DOUBLE)
    settings = attributes(node)
    alpha, beta = settings.pop("alpha", 1.0), settings.pop("beta", 1.0)
    product = graph.make_node(node.op_type, node, [first, second], **settings)
    bias = node.input[2] if len(node.input) > 2 else ""
    nodes += [*more, product]
    if bias and beta != 1.0:
        wide = graph.make_node("Cast", node, [bias], to=TensorProto.DOUBLE)
        scaled = graph.make_node("Mul", node, [wide.output[0], graph.add_weight(f"{bias}/beta", np.array(beta))])
        nodes, bias = [*nodes, wide, scaled], scaled.output[0]
    scale = alpha * left.scale * right.scale
    return nodes + scaled_sum(graph, node, product.output[0], scale, (bias, None), left.element_type)


def _integers(graph: EditableGraph, like: NodeProto, operand: _Operand, to: int) -> tuple[list[NodeProto], str]:
    """Nodes that give the integers of a factor without their zero point, in a floating-point type; their tensor."""
    if operand.values is not None:
        values = operand.values.astype(helper.tensor_dtype_to_np_dtype(to))
        return [], graph.add_weight(f"{operand.tensor}/integers", values)
    wide = graph.make_node("Cast", like, [operand.tensor], to=TensorProto.INT32)
    zero = graph.add_weight(f"{operand.tensor}/zero", operand.zero.reshape(()).astype(np.int32))
    centred = graph.make_node("Sub", like, [wide.output[0], zero])
    result = graph.make_node("Cast", like, [centred.output[0]], to=to)
    return [wide, centred, result], result.output[0]


def scaled_sum(
    graph: EditableGraph,
    node: NodeProto,
    total: str,
    scale: npt.NDArray[np.float64],
    bias: tuple[str, tuple[int, ...] | None],
    element_type: int,
) -> list[NodeProto]:
    """Nodes that multiply exact sums by their scale, add the bias in its shape, and round to the type of the output."""
    nodes = [graph.make_node("Mul", node, [total, graph.add_weight(f"{node.output[0]}/scale", scale)])]
    name, shape = bias
    if name:
        nodes.append(graph.make_node("Cast", node, [name], to=TensorProto.DOUBLE))
        addend = nodes[-1].output[0]
        if shape is not None:
            target = graph.add_weight(f"{node.output[0]}/channels", np.array(shape, np.int64))
            nodes.append(graph.make_node("Reshape", node, [addend, target]))
            addend = nodes[-1].output[0]
        nodes.append(graph.make_node("Add", node, [nodes[0].output[0], addend]))
    return [*nodes, graph.make_node("Cast", node, [nodes[-1].output[0]], node.output[0], to=element_type)]


_PRODUCTS: Mapping[str, Callable[[EditableGraph, NodeProto, _Operand, _Operand], list[NodeProto]]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _matrix_product,
    "MatMul": _matrix_product,
}
