"""Which heavy nodes a runtime runs in 8 bits, from what it says itself: optimised graph, runtime model or build log.

A runtime runs a node in floating point, between a dequantization and a quantization, where it finds no INT8 kernel.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime as ort

from deploytool.backends import onnxruntime
from deploytool.errors import StageFailed
from deploytool.rewrites.graph import weights
from deploytool.spec import Precision

_ORT_INT8 = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger", "MatMulInteger")
_ORT_SUFFIX = re.compile(r"_token_\d+$")  # of the name of a node that ONNX Runtime has fused
_OPENVINO_HEAVY = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_OPENVINO_INT8 = ("i8", "u8")
_RTX_LAYER = r"^Name: .*?, LayerType: (?:correlation|gemm), Inputs: \[ \{[^}]*Datatype: %s\b.*$"  # of its first input
_RTX_TYPES = {Precision.INT8: "Int8", Precision.FP8: "FP8"}
_RTX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_SILENT = 4  # log severity


def onnxruntime_graph(quantized: onnx.ModelProto) -> onnx.ModelProto:
    """The graph into which ONNX Runtime turns a QDQ graph for the CPU of this machine; StageFailed if it cannot."""
    parts, options = weights.session_parts(quantized), ort.SessionOptions()
    onnxruntime.pass_weights(options, parts.arrays, parts.folder)
    options.log_severity_level = _SILENT
    with TemporaryDirectory() as folder:
        path = Path(folder, "optimised.onnx")
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(parts.message, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            reason = " ".join(str(error).split())
            raise StageFailed(f"ONNX Runtime cannot optimise the INT8 graph: {reason}", "deploy FP32") from error
        return onnx.load(path)


def in_onnxruntime(optimised: onnx.ModelProto) -> frozenset[str]:
    """The names of the heavy nodes that are INT8 kernels in a graph optimised by ONNX Runtime."""
    return frozenset(_ORT_SUFFIX.sub("", node.name) for node in optimised.graph.node if node.op_type in _ORT_INT8)


def in_openvino(runtime_model: Any) -> frozenset[str]:
    """The names of the nodes computed by INT8 kernels of heavy layers, from `CompiledModel.get_runtime_model()`."""
    found = set[str]()
    for operation in runtime_model.get_ordered_ops():
        facts = operation.get_rt_info()
        if _text(facts, "layerType") in _OPENVINO_HEAVY and _text(facts, "runtimePrecision") in _OPENVINO_INT8:
            found.update(_text(facts, "originalLayersNames").split(","))
    return frozenset(found)


def _text(facts: Any, key: str) -> str:
    value = facts[key]
    return str(value.astype(str) if hasattr(value, "astype") else value)  # OpenVINO wraps values in a type of its own


def in_tensorrt(log: str, precision: Precision = Precision.INT8) -> frozenset[str]:
    """The names of the nodes in convolution and matrix layers with an input in 8 bits, from TensorRT-RTX's verbose log.

    `precision` is INT8 or FP8.
    """
    layers = re.findall(_RTX_LAYER % _RTX_TYPES[precision], log, re.MULTILINE)
    return frozenset(name for layer in layers for name in _RTX_NODE.findall(layer))
