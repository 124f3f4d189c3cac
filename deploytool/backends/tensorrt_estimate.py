"""Rehearses an engine where there is no GPU: what TensorRT-RTX itself says it would launch, read from its build log."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploytool.backends import tensorrt
from deploytool.errors import StageFailed
from deploytool.spec import Range, Stage, Tensor

_FLAVOUR = "tensorrt_rtx"
_LAYER = re.compile(r"^Name: .*?, LayerType: (\w+),(.*)$", re.MULTILINE)
_TENSOR = re.compile(r"Dimensions: \[([-\d,]*)\].*?Datatype: (\w+)")
_SYNCS, _ON_THE_HOST = ("signal", "wait"), ("shape_call",)
_BYTES = {"Float": 4, "Half": 2, "Int32": 4, "Int64": 8, "Bool": 1}


@dataclass(frozen=True)
class BuildEstimate:
    """What one run of an engine takes, as its builder tells it.

    `kernels` are launched, `syncs` are the signals and waits between streams, `traffic` is the bytes that all kernels
    read and write at batch 1, `size` the bytes of the engine.
    """

    kernels: int
    syncs: int
    traffic: int
    size: int


def parse_log(log: str, size: int) -> BuildEstimate:
    """The launches of an engine of that size, from the layers its build log lists; StageFailed if it lists none."""
    layers = _LAYER.findall(log)
    if not layers:
        raise StageFailed("the build log lists no layers", "report the version of TensorRT-RTX")
    launched = [tensors for kind, tensors in layers if kind not in (*_SYNCS, *_ON_THE_HOST)]
    syncs = sum(kind in _SYNCS for kind, _ in layers)
    return BuildEstimate(len(launched), syncs, sum(map(_traffic, launched)), size)


def _traffic(tensors: str) -> int:
    """The bytes of all tensors of a layer, free sides counting once."""
    sides = ((re.findall(r"\d+", dims.replace("-1", "1")), kind) for dims, kind in _TENSOR.findall(tensors))
    return sum(math.prod(map(int, each)) * _BYTES.get(kind, 4) for each, kind in sides)


def estimate(graph: bytes, inputs: Sequence[Tensor], free: Mapping[str, Range]) -> BuildEstimate:
    """Builds a throw-away engine of a serialized FP16 ONNX graph, and counts what it would launch.

    Raises MissingBackend if TensorRT-RTX is not installed, StageFailed if it refuses the graph.
    """
    trt = tensorrt.library(_FLAVOUR)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise StageFailed(f"TensorRT does not take the graph: {parser.get_error(0).desc()}", "deploy the ONNX graph")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for index, tensor in enumerate(inputs):
        sizes = zip(tensor.shape, network.get_input(index).shape, strict=True)
        sides = [free[side] if isinstance(side, str) else Range(size, size, size) for side, size in sizes]
        shapes = ([getattr(side, end) for side in sides] for end in ("smallest", "typical", "largest"))
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise StageFailed(f"{_FLAVOUR} could not build the engine", f"see the {Stage.BUILD} stage")
    return parse_log("\n".join(logger.lines), len(bytes(engine)))


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the bindings are chosen at run time and carry no types
        """Keeps all that TensorRT says; it must outlive the builder."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, _severity: Any, message: str) -> None:
            self.lines.append(message)

    return Log()
