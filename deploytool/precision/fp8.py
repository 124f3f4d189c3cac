"""Quantises convolutions and products to FP8 (E4M3) in a graph that is FP16 otherwise, strongly typed, for engines.

Only what a quantised node reads is quantised, and only for it: with 3 bits of fraction an addition or a Concat would
lose more by FP8 than it costs in FP16. What TensorRT-RTX 1.7.1 makes of it, by its build logs (no GPU ran it):

- Scale and zero point of an activation must be scalars: with one dimension, of size 1, its convolutions run in FP16.
- Weights with a scale for each channel are built too, but a convolution then returns FP32, which another kernel scales,
  and products read and write more. One scale loses nothing that counts: FP8 rounds small channels as finely as large
  ones. `tests/precision/test_fp8.py` has the errors of both.
- With FP16 scales convolutions and products return FP16, with FP32 scales FP32. Convolutions have FP16 scales: with
  FP32 scales MobileNet v1 needs 57 kernels instead of 45. Products have FP32 scales, and a cast after them, which is
  fused: with FP16 scales TensorRT divides the product of query, key and value into three, and puts signals between
  streams if the engine is for several compute capabilities.
- There are kernels for compute capabilities 8.9, 12.0 and 12.1. For 7.5, 8.0 and 8.6 the builder fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from deploytool.backends import e4m3
from deploytool.errors import StageFailed
from deploytool.precision import fp16, hazards, opset
from deploytool.precision.conversion import Conversion
from deploytool.rewrites.graph.editable import Array, EditableGraph
from deploytool.spec import FP8_OPSET, Precision, Stage

_PRODUCTS = ("Gemm", "MatMul")
_SMALLEST_SCALE = 2.0**-14  # the smallest normal FP16 number; FP8 has binades to spare below it
_LARGEST_SCALE = float(np.finfo(np.float16).max)


def quantize(single: onnx.ModelProto, largest: Mapping[str, float]) -> onnx.ModelProto:
    """The graph in opset 21, or its own if that is newer, with Q/DQ nodes of E4M3; inputs and outputs keep their types.

    `largest` has the nodes to quantise by name, with the largest magnitude of what they read, which becomes 448. Those
    that FP16 would make wrong stay as they are, in FP32. The graph has a unique name for every node. Raises StageFailed
    if it cannot be converted.
    """
    conversion = _converted(single)
    wide = hazards.find(conversion).nodes
    quantized = {node.name: node.op_type for node in conversion.nodes if node.name in largest and node.name not in wide}
    products = {name for name, op in quantized.items() if op in _PRODUCTS}
    writer = _Writer(EditableGraph(conversion.keeping(wide | products)), EditableGraph(single))
    for name in quantized:
        writer.quantize(name, largest[name], np.dtype(np.float32 if name in products else np.float16))
    return writer.graph.to_model()


def _converted(single: onnx.ModelProto) -> Conversion:
    try:
        return fp16.convert(opset.raised(single, FP8_OPSET), keep_io=True)
    except Exception as error:  # the version converter and the checker raise errors of any class
        reason = " ".join(str(error).split())
        remedy = f"leave out --precision {Precision.FP8}, or deploy the {Stage.FP16} graph"
        raise StageFailed(f"the graph cannot be converted to FP8: {reason}", remedy) from error


class _Writer:
    """Adds Q/DQ nodes to the FP16 form of a graph; each activation is quantised once."""

    def __init__(self, graph: EditableGraph, single: EditableGraph) -> None:
        self.graph = graph
        self._weights = {node.name: single.constant(node.input[1]) for node in single.nodes if len(node.input) > 1}
        self._dequantized: dict[str, str] = {}
        self._zero = graph.add_weight("e4m3_zero", np.zeros((), e4m3.DTYPE))

    def quantize(self, name: str, largest: float, scales: np.dtype[Any]) -> None:
        """Makes the two factors of a node FP8; `scales` is the type of its scales and of its result."""
        node = next(node for node in self.graph.nodes if node.name == name)
        weight = self._weights[name]
        assert weight is not None  # the placement has nodes with constant weights only
        quantized = NodeProto()
        quantized.CopyFrom(node)
        before = self._activation(node, _scale(largest, scales))
        quantized.input[0] = self._dequantized[node.input[0]]
        dequantize = self._weight(node, weight, scales)
        quantized.input[1] = dequantize.output[0]
        self.graph.replace([node], [*before, dequantize, quantized])

    def _activation(self, node: NodeProto, scale: Array) -> list[NodeProto]:
        """The Q and DQ nodes of what a node reads; none if another one has them already."""
        tensor = str(node.input[0])
        if tensor in self._dequantized:
            return []
        factor = self.graph.add_weight(f"{tensor}/scale", scale)
        names = [self.graph.unique_name(f"{tensor}/{suffix}") for suffix in ("e4m3", "dequantized")]
        quantize = self.graph.make_node("QuantizeLinear", node, [tensor, factor, self._zero], names[0])
        dequantize = self.graph.make_node("DequantizeLinear", node, [names[0], factor, self._zero], names[1])
        self._dequantized[tensor] = names[1]
        return [quantize, dequantize]

    def _weight(self, node: NodeProto, weight: Array, scales: np.dtype[Any]) -> NodeProto:
        """The DQ node of the weights of a node."""
        scale = _scale(float(np.abs(weight).max(initial=0.0)), scales)
        codes = e4m3.nearest(weight.astype(np.float32) / scale.astype(np.float32))
        inputs = [
            self.graph.add_weight(f"{node.input[1]}/e4m3", codes),
            self.graph.add_weight(f"{node.input[1]}/scale", scale),
            self._zero,
        ]
        name = self.graph.unique_name(f"{node.input[1]}/dequantized")
        return self.graph.make_node("DequantizeLinear", node, inputs, name)


def _scale(largest: float, kind: np.dtype[Any]) -> Array:
    """The number by which the largest magnitude is 448, in a range that FP16 has."""
    return np.array(np.clip(largest / e4m3.LARGEST, _SMALLEST_SCALE, _LARGEST_SCALE), kind)
