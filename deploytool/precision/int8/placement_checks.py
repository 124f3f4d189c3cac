"""Finds faults in where a QDQ graph quantises: depthwise weights, residual additions, and two in a row."""

from __future__ import annotations

import math
from collections.abc import Iterator

from onnx import ModelProto, NodeProto

from deploytool.precision.int8.calibration_fault import CalibrationFault, Finding
from deploytool.rewrites.graph.editable import EditableGraph, attributes

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_FUSED = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # a runtime adds the other input before it requantises
_THROUGH = ("Cast", "Relu", "Clip", "LeakyRelu", "HardSwish", "Sigmoid", "Identity")


def find(quantized: ModelProto) -> Iterator[Finding]:
    """All faults of placement in a QDQ graph."""
    graph = EditableGraph(quantized)
    for node in graph.nodes:
        if reason := _per_tensor_depthwise(graph, node):
            yield Finding(CalibrationFault.PER_TENSOR_DEPTHWISE, node.name, reason)
        if reason := _double(graph, node):
            yield Finding(CalibrationFault.DOUBLE_Q, node.input[0], reason)
    yield from _residuals(graph)


def _producer(graph: EditableGraph, tensor: str, op: str) -> NodeProto | None:
    node = graph.producer(tensor)
    return node if node is not None and node.op_type == op else None


def _per_tensor_depthwise(graph: EditableGraph, node: NodeProto) -> str:
    groups = int(attributes(node).get("group", 1)) if node.op_type == "Conv" else 1
    dequantize = _producer(graph, node.input[1], DEQUANTIZE) if groups > 1 else None
    if dequantize is None:
        return ""
    quantize = _producer(graph, dequantize.input[0], QUANTIZE)
    weight = graph.constant((quantize or dequantize).input[0])
    scale = graph.constant(dequantize.input[1])
    if weight is None or scale is None or scale.size != 1 or weight.shape[1] != 1:
        return ""
    return f"{len(weight)} channels share the scale {float(scale.reshape(-1)[0]):.3g}"


def _double(graph: EditableGraph, node: NodeProto) -> str:
    before = _producer(graph, node.input[0], DEQUANTIZE) if node.op_type == QUANTIZE else None
    first = _producer(graph, before.input[0], QUANTIZE) if before is not None else None
    if before is None or first is None or _type(graph, first) != _type(graph, node):
        return ""
    return f"{first.name} and {node.name} follow each other"


def _type(graph: EditableGraph, quantize: NodeProto) -> str:
    """The integer type that a node quantises to: that of its zero point, else UINT8."""
    zero = graph.constant(quantize.input[2]) if len(quantize.input) > 2 and quantize.input[2] else None
    return "uint8" if zero is None else zero.dtype.name


def _residuals(graph: EditableGraph) -> Iterator[Finding]:
    """Additions of two activations, whose sum is quantised, with an input that is not.

    A runtime that fuses additions into convolutions takes the output of one convolution as it is. Whether the graph is
    made so is decided by what most of its additions have.
    """
    additions = [node for node in graph.nodes if node.op_type == "Add" and _is_residual(graph, node)]
    direct = [[name for name in node.input if _is_fused(graph, name)] for node in additions]
    fuses = sum(len(names) == 1 for names in direct) > sum(not names for names in direct) or (
        len(additions) == 1 and _is_symmetric(graph)
    )
    for node, names in zip(additions, direct, strict=True):
        allowed = names[:1] if fuses else []
        for tensor in node.input:
            if tensor not in allowed and _comes_unquantised(graph, tensor):
                reason = f"{tensor} is added as it is, and what comes before and after is quantised"
                yield Finding(CalibrationFault.MISSING_RESIDUAL_Q, node.name, reason)


def _is_residual(graph: EditableGraph, node: NodeProto) -> bool:
    """Whether two different activations are added and the sum is quantised."""
    if len(set(node.input)) < 2 or any(_is_constant(graph, name) for name in node.input):
        return False
    pending = [node.output[0]]
    for tensor in pending:
        for reader in graph.consumers(tensor):
            if reader.op_type == QUANTIZE:
                return True
            pending += reader.output if reader.op_type in _THROUGH else []
    return False


def _is_constant(graph: EditableGraph, tensor: str) -> bool:
    """Whether a tensor is a weight, quantised or not."""
    node = graph.producer(tensor)
    source = node.input[0] if node is not None and node.op_type == DEQUANTIZE else tensor
    return graph.constant(source) is not None


def _is_fused(graph: EditableGraph, tensor: str) -> bool:
    """Whether a tensor is the output of a quantised convolution or product that only one node reads."""
    node = graph.producer(tensor)
    is_heavy = node is not None and node.op_type in _FUSED and _reads_quantised(graph, node)
    return is_heavy and graph.only_consumer(tensor) is not None


def _comes_unquantised(graph: EditableGraph, tensor: str) -> bool:
    """Whether a tensor is not quantised though what it is computed from is; false where a layer is kept in floats."""
    if _producer(graph, tensor, DEQUANTIZE) is not None:
        return False
    if any(reader.op_type == QUANTIZE for reader in graph.consumers(tensor)):
        return True
    node = graph.producer(tensor)
    while node is not None and node.op_type in _THROUGH and not _reads_quantised(graph, node):
        node = graph.producer(node.input[0])
    return node is not None and _reads_quantised(graph, node)


def _reads_quantised(graph: EditableGraph, node: NodeProto) -> bool:
    """Whether an activation that a node reads is dequantised."""
    return any(_producer(graph, name, DEQUANTIZE) is not None and not _is_constant(graph, name) for name in node.input)


def _is_symmetric(graph: EditableGraph) -> bool:
    """Whether all zero points are those of symmetric INT8."""
    zeros = [graph.constant(node.input[2]) for node in graph.nodes if node.op_type == QUANTIZE and len(node.input) > 2]
    return all(
        zero is not None and zero.dtype.name == "int8" and math.prod(zero.shape) <= 1 and not zero.any()
        for zero in zeros
    )
