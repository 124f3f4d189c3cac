"""Estimates the cost of an engine without a GPU, from the kernels that TensorRT-RTX lists in its build log."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploytool import targets
from deploytool.backends import tensorrt, tensorrt_builder
from deploytool.errors import StageFailed
from deploytool.spec import EnginePlan, Range, Tensor

_LAYER = re.compile(r"^Name: .*?, LayerType: (\w+),(.*)$", re.MULTILINE)
_TENSOR = re.compile(r"Dimensions: \[([-\d,]*)\].*?Datatype: (\w+)")
_SYNC_LAYERS, _HOST_LAYERS = ("signal", "wait"), ("shape_call",)
_ITEM_BYTES = {"Float": 4, "Half": 2, "BFloat16": 2, "Int32": 4, "Int64": 8, "Int8": 1, "FP8": 1, "Bool": 1}


@dataclass(frozen=True)
class BuildEstimate:
    """The cost of one inference, as estimated from the build log.

    `kernels` is the number of kernel launches, `syncs` the number of signals and waits between streams, `traffic` the
    bytes that all kernels read and write at batch 1, `size` the bytes of the engine.
    """

    kernels: int
    syncs: int
    traffic: int
    size: int


def parse_log(log: str, size: int) -> BuildEstimate:
    """The estimate for an engine of `size` bytes, from the layers in its build log; StageFailed if it lists none."""
    layers = _LAYER.findall(log)
    if not layers:
        raise StageFailed("the build log lists no layers", "report the version of TensorRT-RTX")
    kernels = [tensors for kind, tensors in layers if kind not in (*_SYNC_LAYERS, *_HOST_LAYERS)]
    syncs = sum(kind in _SYNC_LAYERS for kind, _ in layers)
    return BuildEstimate(len(kernels), syncs, sum(map(_tensor_bytes, kernels)), size)


def count_kernels(log: str) -> int | None:
    """The number of kernel launches in a build log; None if it lists no layers."""
    layers = _LAYER.findall(log)
    return sum(kind not in (*_SYNC_LAYERS, *_HOST_LAYERS) for kind, _ in layers) if layers else None


def _tensor_bytes(tensors: str) -> int:
    """The bytes of all tensors of a layer, with every dynamic dimension counted as 1."""
    parsed = ((re.findall(r"\d+", shape.replace("-1", "1")), dtype) for shape, dtype in _TENSOR.findall(tensors))
    return sum(math.prod(map(int, sizes)) * _ITEM_BYTES.get(dtype, 4) for sizes, dtype in parsed)


def estimate(graph: bytes, inputs: Sequence[Tensor], ranges: Mapping[str, Range]) -> BuildEstimate:
    """Builds a temporary engine of a serialized FP16 ONNX graph, and counts the kernels that it would launch.

    Raises MissingBackend if TensorRT-RTX is not installed, StageFailed if it rejects the graph.
    """
    return parse_log(*build_log(graph, inputs, ranges))


def build_log(graph: bytes, inputs: Sequence[Tensor], ranges: Mapping[str, Range]) -> tuple[str, int]:
    """The verbose log of a temporary engine of a serialized ONNX graph, and the bytes of the engine.

    Raises as `estimate` does.
    """
    log: list[str] = []
    plan = EnginePlan("estimate.plan", targets.TENSORRT_RTX)
    trt = tensorrt.library(plan.flavour)
    built = tensorrt_builder.build(trt, graph, plan, inputs, ranges, None, fp32_layers=None, listen=log.append)
    return "\n".join(log), len(built.engine)
