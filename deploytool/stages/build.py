"""Builds engines from the FP16 graph: strongly typed, one code path for TensorRT 10, 11 and RTX, GPU or none."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from deploytool import plain
from deploytool.artifact import Given, Kind, Notes
from deploytool.backends import tensorrt
from deploytool.errors import StageFailed
from deploytool.miscompiles import Hit
from deploytool.report import Engine
from deploytool.spec import BATCH, EnginePlan, Job, Range, Tensor

_HEAVY = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_SHARE = 0.9  # of the heavy layers that are not kept in FP32 on purpose must be FP16: no engine is FP32 in silence


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes every engine that was planned, the first to `out` and the others beside it.

    An engine that a known miscompile can hit gives the canaries too: `canaries` says which engine gives which.
    Raises MissingBackend if a flavour cannot be imported, StageFailed if TensorRT refuses the graph or builds FP32.
    """
    taken = given.latest(Kind.GRAPH)
    graph, kept = taken.path.read_bytes(), plain.decode(int, taken.notes.get("heavy_nodes_kept", 0))
    engines, log, remarks, given_too = [], [], [], {}
    for plan in job.options.engines:
        trt = tensorrt.library(plan.flavour)
        logger, begun = _logger(trt), time.perf_counter()
        hits, remark = _endangered(_hits(given), plan, trt.__version__)
        engine, layers = _build(trt, logger, graph, kept, plan, hits, job)
        out.with_name(plan.file).write_bytes(engine)
        seconds = round(time.perf_counter() - begun, 3)
        engines.append(
            Engine(plan.file, len(engine), plan.flavour, trt.__version__, plan.capabilities, layers, seconds)
        )
        log += logger.lines
        remarks += remark
        given_too[plan.file] = [hit.place.tensor for hit in hits]
    return {"engines": plain.encode(engines), "log": log, "canaries": given_too, "remarks": remarks}


def _hits(given: Given) -> tuple[Hit, ...]:
    """The places that the lint found."""
    return tuple(
        hit for artifact in given.chain(Kind.CANARY) for hit in plain.decode(tuple[Hit, ...], artifact.notes["hits"])
    )


def _endangered(hits: tuple[Hit, ...], plan: EnginePlan, version: str) -> tuple[tuple[Hit, ...], list[str]]:
    """Those of the places that this engine can be wrong at, and a line on what is done there."""
    here = tuple(
        hit for hit in hits if hit.endangers(plan.flavour, version, tensorrt.covered(plan.flavour, plan.capabilities))
    )
    issues = ", ".join(dict.fromkeys(hit.issue for hit in here or hits))
    if here:
        return here, [f"{plan.file} can be hit by {issues}: it gives {len(here)} tensors more, the canaries"]
    if hits:
        return here, [f"{plan.file} has no canaries: {issues} is not reported for {plan.flavour} {version} there"]
    return here, []


def _build(
    trt: Any, logger: Any, graph: bytes, kept: int, plan: EnginePlan, hits: tuple[Hit, ...], job: Job
) -> tuple[bytes, Counter[str]]:
    """The engine's bytes, and how many of its network's layers give which type."""
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise _refused(parser)
    layers = _census(trt, network, kept)
    _mark(network, {hit.place.tensor for hit in hits})
    config = builder.create_builder_config()
    config.add_optimization_profile(
        _profile(builder, network, job.model.inputs, {**job.options.sizes, BATCH: job.options.batch})
    )
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = _monitor(trt, job.watch)
    _aim(trt, config, plan)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise StageFailed(f"{plan.flavour} could not build the engine: {logger.last_error()}", "see its message")
    return bytes(engine), layers


def _refused(parser: Any) -> StageFailed:
    error = parser.get_error(0)
    where = f"{error.node_operator()} node {error.node_name()!r}" if error.node_name() else "the graph"
    return StageFailed(
        f"TensorRT does not take {where}: {error.desc()}", "change that operator, or deploy the ONNX graph"
    )


def _mark(network: Any, tensors: Collection[str]) -> None:
    """Makes outputs of tensors on the way.

    They are answers of fused layers: to mark an operand would take it out of the buffer that it is misread in.
    """
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for place in range(layer.num_outputs):
            tensor = layer.get_output(place)
            if tensor.name in tensors and not tensor.is_network_output:
                network.mark_output(tensor)


def _census(trt: Any, network: Any, kept: int) -> Counter[str]:
    """How many layers give which type; raises StageFailed if the heavy ones are not FP16."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    heavy = [layer for layer in layers if layer.type.name in _HEAVY]
    half = sum(layer.get_output(0).dtype == trt.DataType.HALF for layer in heavy)
    if half < _SHARE * (len(heavy) - kept):
        raise StageFailed(
            f"only {half} of {len(heavy)} convolution and matrix layers are FP16: this would be an FP32 engine",
            "build from the graph of the halve stage",
        )
    return Counter(layer.get_output(0).dtype.name for layer in layers if layer.num_outputs)


def _profile(builder: Any, network: Any, inputs: tuple[Tensor, ...], free: Mapping[str, Range]) -> Any:
    """The graph says how large its inputs are, as a checkpoint may have settled it; the model, what is free."""
    profile = builder.create_optimization_profile()
    for index, tensor in enumerate(inputs):
        sizes = zip(tensor.shape, network.get_input(index).shape, strict=True)
        sides = [free[side] if isinstance(side, str) else Range(size, size, size) for side, size in sizes]
        shapes = ([getattr(side, end) for side in sides] for end in ("smallest", "typical", "largest"))
        profile.set_shape(tensor.name, *shapes)
    return profile


def _aim(trt: Any, config: Any, plan: EnginePlan) -> None:
    """Names the GPUs the engine is for; only TensorRT-RTX can, the full TensorRT builds for the GPU it runs on."""
    if not plan.capabilities:
        return
    config.num_compute_capabilities = len(plan.capabilities)
    for index, capability in enumerate(plan.capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + capability.replace(".", "")), index)


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the bindings are chosen at run time and carry no types
        """Keeps what TensorRT says, for the receipt; it must outlive the builder."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.INFO:
                self.lines.append(f"{severity.name}: {message}")

        def last_error(self) -> str:
            return next((line for line in reversed(self.lines) if "ERROR" in line), "it gave no reason")

    return Log()


def _monitor(trt: Any, watch: Callable[[int, int], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # as above
        """Reports the outermost phase; TensorRT calls it from its own threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._outermost: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._outermost[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._outermost:
                watch(step + 1, self._outermost[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            if total := self._outermost.pop(phase_name, None):
                watch(total, total)

    return Monitor()
