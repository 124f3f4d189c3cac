"""Makes QDQ graphs with ONNX Runtime's own quantiser, from ranges that are given."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from deploytool.precision.int8.value_range import ValueRange

OPERATORS = ["Conv", "Gemm", "Add", "Mul", "Relu", "GlobalAveragePool", "Sigmoid", "Flatten"]
FUSED = {"OpTypesToExcludeOutputQuantization": ["Conv"]}


def quantize(
    graph: onnx.ModelProto,
    ranges: Mapping[str, ValueRange],
    *,
    symmetric: bool = False,
    fused: bool = False,
    per_channel: bool = True,
    float_bias: bool = False,
) -> onnx.ModelProto:
    """The QDQ graph: U8S8, or S8S8 with symmetric ranges; `fused` leaves outputs of convolutions as they are.

    An addition then reads one of its inputs from a convolution, as TensorRT wants it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    inferred = onnx.shape_inference.infer_shapes(copy)
    data = {name: (np.float32(each.low), np.float32(each.high)) for name, each in ranges.items()}
    options = {"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": not float_bias}
    with contextlib.redirect_stdout(io.StringIO()):
        quantizer = QDQQuantizer(
            inferred,
            per_channel=per_channel,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, data),
            nodes_to_quantize=[],
            nodes_to_exclude=[],
            op_types_to_quantize=OPERATORS,
            extra_options={**options, **(FUSED if fused else {})},
        )
        quantizer.quantize_model()
    made: onnx.ModelProto = quantizer.model.model
    return with_fused_additions(made) if fused else made


def with_fused_additions(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The QDQ graph with additions that read the output of a convolution, if only they do, without Q and DQ."""
    producers = {name: node for node in graph.graph.node for name in node.output}
    for node in graph.graph.node:
        for place, tensor in enumerate(node.input if node.op_type == "Add" else ()):
            dequantize = producers[tensor]
            raw = producers[dequantize.input[0]].input[0]
            if producers[raw].op_type == "Conv" and sum(tensor in each.input for each in graph.graph.node) == 1:
                node.input[place] = raw
                break
    return without_unused(graph)


def without_unused(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph, changed, without nodes that nothing reads."""
    outputs = {value.name for value in graph.graph.output}
    while True:
        read = {name for node in graph.graph.node for name in node.input} | outputs
        unused = [node for node in graph.graph.node if not read.intersection(node.output)]
        if not unused:
            return graph
        for node in unused:
            graph.graph.node.remove(node)
