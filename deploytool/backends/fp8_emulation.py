"""Runs a graph with Q/DQ nodes of FP8 (E4M3) on the CPU as it is quantised: exact products, summed without rounding.

Numbers of E4M3 are multiples of 2⁻⁹ up to 448, so FP64 holds any sum of up to 131,072 of their products exactly, in any
order; scale and bias are applied to it in FP64, and the result is rounded to FP32 and from there to its type. Tensor
cores round sums to FP32 or less while they add, which no emulation of any order would foresee. All other nodes stay,
and run without optimisation.

A value is divided by its scale in FP32, also if both are FP16, as ONNX Runtime does; ONNX's reference evaluator rounds
the quotient to FP16 first, which can move a value next to a tie by one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper

from deploytool.backends import e4m3, int8_emulation, onnxruntime
from deploytool.backends.session import Session
from deploytool.errors import MissingBackend
from deploytool.rewrites.graph import storage, weights
from deploytool.rewrites.graph.editable import EditableGraph, attributes

Array = npt.NDArray[Any]

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_END = np.iinfo(np.int64).max  # of a Slice that goes to the end
_FIXED_PADS = (b"NOTSET", b"VALID")


def fingerprint() -> str:
    """The version of ONNX Runtime, which computes the operators."""
    return onnxruntime.fingerprint()


@contextmanager
def start(path: Path | bytes, device: str = "cpu") -> Iterator[Session]:
    """Loads a graph with Q/DQ nodes of FP8 on the CPU."""
    if device != "cpu":
        raise MissingBackend(f"FP8 arithmetic is not emulated on {device}", "use --runner onnxruntime there")
    model = onnx.load_from_string(path) if isinstance(path, bytes) else storage.load(path)
    parts = weights.session_parts(emulate(model))
    with onnxruntime.start(parts.message, optimise=False, weights=parts.arrays, folder=parts.folder) as session:
        yield session


def emulate(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the products of an FP8 activation and FP8 weights in exact arithmetic, under the same names.

    A product stays as it is, so that its sums are rounded to FP32 while they are added, if one of its factors is
    dequantised by another scale than one constant, if its padding follows from the sizes of its input, or if a Gemm
    has factors of its own.
    """
    graph = EditableGraph(model)
    for node in list(graph.nodes):
        settings = attributes(node)
        if node.op_type not in _PRODUCTS or settings.get("auto_pad", b"NOTSET") not in _FIXED_PADS:
            continue
        if {settings.get("alpha", 1.0), settings.get("beta", 1.0)} != {1.0}:
            continue
        left, right = (_factor(graph, tensor) for tensor in node.input[:2])
        if left is not None and right is not None and right.values is not None:
            graph.replace([node], _exact(graph, node, left, right))
    return graph.to_model()


@dataclass(frozen=True)
class _Factor:
    """A dequantised factor: the tensor of its codes, and for a constant their values in FP64.

    `element_type` is that of the dequantised tensor.
    """

    tensor: str
    values: Array | None
    scale: float
    element_type: int


def _factor(graph: EditableGraph, tensor: str) -> _Factor | None:
    """The factor in a tensor; None if it is not dequantised from E4M3 by one constant scale."""
    node = graph.producer(tensor)
    if node is None or node.op_type != "DequantizeLinear" or len(node.input) < 3:
        return None
    codes, scale, zero = (graph.constant(name) for name in node.input[:3])
    if scale is None or zero is None or scale.size != 1 or zero.dtype != e4m3.DTYPE:
        return None
    kind = helper.np_dtype_to_tensor_dtype(scale.dtype)
    values = None if codes is None else codes.astype(np.float64)
    return _Factor(node.input[0], values, float(scale.reshape(())), kind)


def _exact(graph: EditableGraph, node: NodeProto, left: _Factor, right: _Factor) -> list[NodeProto]:
    """Nodes for a product: exact sums of the codes in FP64, then scale and bias."""
    assert right.values is not None
    wide = graph.make_node("Cast", node, [left.tensor], to=TensorProto.DOUBLE)
    multiply = _convolution if node.op_type == "Conv" else _matrix_product
    nodes = [wide, *multiply(graph, node, wide.output[0], right.values)]
    bias = node.input[2] if len(node.input) > 2 else ""
    shape = (1, -1, *[1] * (right.values.ndim - 2)) if node.op_type == "Conv" else None
    scale = np.array(left.scale * right.scale)
    return nodes + int8_emulation.scaled_sum(graph, node, nodes[-1].output[0], scale, (bias, shape), left.element_type)


def _matrix_product(graph: EditableGraph, node: NodeProto, codes: str, values: Array) -> list[NodeProto]:
    """The product of two matrices."""
    settings = {name: value for name, value in attributes(node).items() if name in ("transA", "transB")}
    return [graph.make_node(node.op_type, node, [codes, graph.add_weight(f"{codes}/weight", values)], **settings)]


def _convolution(graph: EditableGraph, node: NodeProto, codes: str, values: Array) -> list[NodeProto]:
    """A convolution as the sum of one matrix product for each place in the kernel: ONNX Runtime has none in FP64."""
    settings, dims = attributes(node), values.ndim - 2
    strides, dilations = (settings.get(name) or [1] * dims for name in ("strides", "dilations"))
    groups, kernel = int(settings.get("group", 1)), values.shape[2:]
    nodes, padded = _padded(graph, node, codes, settings.get("pads") or [0] * 2 * dims)
    flat = graph.add_weight(f"{codes}/flat", np.array([0, groups, values.shape[1], -1], np.int64))
    axes = graph.add_weight(f"{codes}/axes", np.arange(2, 2 + dims))
    steps = graph.add_weight(f"{codes}/steps", np.array(strides, np.int64))
    total = part = ""
    for place in product(*map(range, kernel)):
        starts = [index * dilation for index, dilation in zip(place, dilations, strict=True)]
        after = [(size - 1) * dilation for size, dilation in zip(kernel, dilations, strict=True)]
        ends = [begin - last or _END for begin, last in zip(starts, after, strict=True)]
        bounds = [graph.add_weight(f"{codes}/bound", np.array(each, np.int64)) for each in (starts, ends)]
        cut = graph.make_node("Slice", node, [padded, *bounds, axes, steps])
        rows = graph.make_node("Reshape", node, [cut.output[0], flat])
        weight = np.moveaxis(values, (0, 1), (-2, -1))[place].reshape(groups, -1, values.shape[1])
        matrix = graph.add_weight(f"{codes}/weight", weight)
        multiply = graph.make_node("MatMul", node, [matrix, rows.output[0]])
        nodes += [cut, rows, multiply]
        if total:
            nodes.append(graph.make_node("Add", node, [total, multiply.output[0]]))
        total, part = nodes[-1].output[0], cut.output[0]
    return [*nodes, *_unflattened(graph, node, total, part, len(values))]


def _padded(graph: EditableGraph, node: NodeProto, tensor: str, pads: list[int]) -> tuple[list[NodeProto], str]:
    """The node that pads a tensor with zeros, if there is anything to pad, and the padded tensor."""
    if not any(pads):
        return [], tensor
    dims = len(pads) // 2
    widths = graph.add_weight(f"{tensor}/pads", np.array([0, 0, *pads[:dims], 0, 0, *pads[dims:]], np.int64))
    pad = graph.make_node("Pad", node, [tensor, widths])
    return [pad], pad.output[0]


def _unflattened(graph: EditableGraph, node: NodeProto, total: str, like: str, channels: int) -> list[NodeProto]:
    """Nodes that give a sum over the places its shape: that of a part of the input, with other channels."""
    sizes = graph.make_node("Shape", node, [like], start=2)
    head = graph.add_weight(f"{total}/channels", np.array([0, channels], np.int64))
    shape = graph.make_node("Concat", node, [head, sizes.output[0]], axis=0)
    return [sizes, shape, graph.make_node("Reshape", node, [total, shape.output[0]])]
