"""Quantizes a graph: QuantizeLinear and DequantizeLinear nodes (QDQ) where the placement says.

The rules under `placement` decide where; ONNX Runtime's quantizer computes scales and writes the nodes for INT8,
`precision/fp8.py` for FP8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from deploytool.errors import StageFailed
from deploytool.precision import conversion, fp8
from deploytool.precision.int8 import strong_types
from deploytool.precision.int8.placement import place, weighted
from deploytool.precision.int8.placement.fused import Fuses
from deploytool.precision.int8.placement.place import Placement
from deploytool.precision.int8.value_range import ValueRange
from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph import weights
from deploytool.rewrites.graph.editable import EditableGraph

_INFERRED = ("onnx.infer", "onnxruntime.quant")  # without it the quantizer writes the graph to a file and reads it


def candidates(graph: onnx.ModelProto, form: Form, fuses: Fuses = Fuses.CLIPPING) -> tuple[str, ...]:
    """The names of the heavy nodes that the rules allow in 8 bits, in graph order."""
    return tuple(node.name for node in place.heavy_nodes(EditableGraph(conversion.with_names(graph)), form, fuses))


def activations(graph: onnx.ModelProto, form: Form, fuses: Fuses = Fuses.CLIPPING) -> tuple[str, ...]:
    """The tensors that are quantized in a form and so need a range, in graph order."""
    return place.place(EditableGraph(conversion.with_names(graph)), form, fuses=fuses).activations


def quantize(
    graph: onnx.ModelProto,
    ranges: Mapping[str, ValueRange],
    form: Form,
    kept: frozenset[str] = frozenset(),
    fuses: Fuses = Fuses.CLIPPING,
) -> onnx.ModelProto:
    """The QDQ graph of an FP32 graph in a form, for kernels that fuse so much; `graph` itself stays unchanged.

    `ranges` has a range for each of `activations`; tensors that share a scale take the widest. The heavy nodes named in
    `kept` stay in floating point. Raises StageFailed if a range is missing or not finite, or no node can be quantized.
    """
    graph = conversion.with_names(graph)
    placement = place.place(EditableGraph(graph), form, kept, fuses)
    if not placement.heavy:
        raise StageFailed("the graph has no convolution or product that can run in 8 bits", "deploy the FP32 graph")
    found = _ranges(placement, ranges)
    if form is Form.E4M3:
        return fp8.quantize(graph, {node.name: max(map(abs, found[node.input[0]])) for node in placement.heavy})
    quantizer = _quantizer(_prepared(graph, placement.heavy), _tensor_data(found), form)
    for name in placement.activations:
        quantizer.quantize_activation_tensor(name)
    outputs = {node.output[0] for node in placement.heavy}
    for node in quantizer.model.nodes():
        if node.output and node.output[0] in outputs:
            _mark_weights(quantizer, node, bias=form is not Form.TENSORRT)
    quantized = EditableGraph(quantizer.quantize_model()).to_model()
    quantized.producer_name, quantized.producer_version = graph.producer_name, graph.producer_version
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(graph.metadata_props)
    if form is Form.TENSORRT:
        quantized = strong_types.convert(quantized, outputs)
    weights.check(quantized)
    return quantized


def _prepared(graph: onnx.ModelProto, heavy: Sequence[NodeProto]) -> onnx.ModelProto:
    """A copy for the quantizer, with types; the constants of every heavy node are initializers that no other reads."""
    prepared = onnx.ModelProto()
    prepared.CopyFrom(weights.inlined(graph))
    editable, outputs = EditableGraph(graph), {node.output[0] for node in heavy}
    stored = {weight.name for weight in prepared.graph.initializer}
    for node in prepared.graph.node:
        if not node.output or node.output[0] not in outputs:
            continue
        for index, name in enumerate(node.input[1:], 1):
            if name and (name not in stored or len(editable.consumers(name)) > 1):
                node.input[index] = editable.unique_name(f"{name}/{node.output[0]}")
                values = np.ascontiguousarray(editable.constant(name))
                prepared.graph.initializer.append(numpy_helper.from_array(values, node.input[index]))
    prepared.graph.value_info.extend(_missing_types(prepared))
    prepared.metadata_props.add(key=_INFERRED[0], value=_INFERRED[1])
    return prepared


def _missing_types(graph: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    known = {value.name for value in graph.graph.value_info}
    return [value for value in weights.infer_shapes(graph).graph.value_info if value.name not in known]


def _ranges(placement: Placement, ranges: Mapping[str, ValueRange]) -> dict[str, tuple[float, float]]:
    """The lowest and the highest value of every quantized tensor; those of a group are its widest."""
    for name in placement.activations:
        if name not in ranges or not (math.isfinite(ranges[name].low) and math.isfinite(ranges[name].high)):
            problem = "has no range" if name not in ranges else "has values that are not finite"
            raise StageFailed(f"tensor {name} {problem} in the calibration table", "calibrate again, on valid images")
    found = {name: (ranges[name].low, ranges[name].high) for name in placement.activations}
    for group in placement.shared:
        widest = min(found[name][0] for name in group), max(found[name][1] for name in group)
        found |= dict.fromkeys(group, widest)
    return found


def _tensor_data(ranges: Mapping[str, tuple[float, float]]) -> dict[str, TensorData]:
    """The ranges as the quantizer takes them."""
    return {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}


def _quantizer(source: onnx.ModelProto, data: dict[str, TensorData], form: Form) -> QDQQuantizer:
    """ONNX Runtime's quantizer, which selects no node by itself."""
    symmetric = form is Form.TENSORRT
    signed = form in (Form.TENSORRT, Form.S8S8)
    return QDQQuantizer(
        source,
        per_channel=True,
        reduce_range=form is Form.U8S7,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if signed else QuantType.QUInt8,
        tensors_range=data,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=[],
        extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
    )


def _mark_weights(quantizer: QDQQuantizer, node: NodeProto, *, bias: bool) -> None:
    """Marks the weights of a heavy node to be quantized, per output channel, and with `bias` its bias, in INT32."""
    quantizer.quantize_weight_tensor_per_channel(node.input[1], weighted.channel_axis(node))
    if bias and weighted.has_bias(node):
        quantizer.quantize_bias_tensor(node.name, node.input[2], node.input[0], node.input[1])
