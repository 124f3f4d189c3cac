"""Puts FP16 into the graph itself, with explicit casts: TensorRT 11 and RTX know no other way, TensorRT 10 follows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from deploytool import plain
from deploytool.artifact import Given, Kind, Notes
from deploytool.child import run_limited
from deploytool.errors import StageFailed
from deploytool.report import Weights
from deploytool.rewrites import FOR_ENGINE
from deploytool.spec import Job

_HEAVY = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_SHARE = 0.9  # of the heavy nodes must run in FP16 before a graph is called FP16
_SMALLEST, _LARGEST = 5.96e-8, 65504.0  # FP16's smallest subnormal and largest finite number: clip there, not before

_SECONDS, _GIBIBYTES = 300.0, 8.0

# A graph that crashes ONNX Runtime (1.31 optimises some FP16 attention into a segmentation fault) ends this child only.
_PROGRAM = """
import sys
sys.path.remove("")
import onnxruntime
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes the FP16 graph, with FP32 inputs and outputs unless `io` is fp16.

    Raises StageFailed if fewer than nine tenths of its heavy nodes end up in FP16, or if it crashes ONNX Runtime.
    """
    before = given.latest(Kind.GRAPH).path
    other = before.with_name(FOR_ENGINE)
    graph = onnx.load(other if other.is_file() else before)
    keep, weights = job.options.io == "fp32", _weights(graph)
    try:
        half = convert_float_to_float16(graph, min_positive_val=_SMALLEST, max_finite_val=_LARGEST, keep_io_types=keep)
        OnnxModel.graph_topological_sort(half.graph)  # the converter appends the inputs' casts behind their readers
        onnx.checker.check_model(half, full_check=True)
    except Exception as error:  # whatever the converter or the checker raises, the graph was refused
        reason = " ".join(str(error).split())
        raise StageFailed(f"the graph cannot be FP16: {reason}", "deploy the graph of the rewrite stage") from error
    halved, heavy = count_half(half)
    if halved < _SHARE * heavy:
        raise StageFailed(
            f"only {halved} of {heavy} Conv, MatMul and Gemm nodes would run in FP16: that is no FP16 graph",
            "deploy the FP32 graph of the rewrite stage, or report the model",
        )
    out.write_bytes(half.SerializeToString(deterministic=True))
    if job.options.runner == "onnxruntime":
        _open(out)
    casts = sum(node.op_type == "Cast" for node in half.graph.node)
    counts = {"heavy_nodes": heavy, "heavy_nodes_fp16": halved, "casts": casts}
    return {"io": job.options.io, **counts, "weights": plain.encode(weights)}


def _weights(graph: onnx.ModelProto) -> Weights:
    """What FP16 does to the FP32 weights of a graph."""
    singles = [weight for weight in graph.graph.initializer if weight.data_type == onnx.TensorProto.FLOAT]
    arrays = [onnx.numpy_helper.to_array(weight).ravel() for weight in singles]
    sizes = np.abs(np.concatenate(arrays or [np.zeros(0)]))
    half = np.finfo(np.float16)
    flushed = (sizes > 0) & (sizes < half.smallest_subnormal)
    subnormal = (sizes >= half.smallest_subnormal) & (sizes < half.smallest_normal)
    return Weights(len(sizes), int(flushed.sum()), int(subnormal.sum()))


def _open(graph: Path) -> None:
    try:
        run_limited(
            [sys.executable, "-c", _PROGRAM, str(graph)], what="ONNX Runtime", seconds=_SECONDS, gibibytes=_GIBIBYTES
        )
    except StageFailed as error:
        raise StageFailed(f"the FP16 graph cannot be opened: {error}", "try --runner reference") from error


def count_half(graph: onnx.ModelProto) -> tuple[int, int]:
    """How many Conv, ConvTranspose, MatMul and Gemm nodes compute in FP16, and how many there are."""
    typed = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*typed.input, *typed.value_info, *typed.output)}
    types |= {weight.name: weight.data_type for weight in typed.initializer}
    heavy = [node for node in typed.node if node.op_type in _HEAVY]
    half = [node for node in heavy if all(types[name] == onnx.TensorProto.FLOAT16 for name in node.input if name)]
    return len(half), len(heavy)
