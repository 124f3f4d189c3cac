"""Turns a graph into an engine: strongly typed, one set of calls for TensorRT 10, 11 and RTX, GPU or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploytool.errors import StageFailed
from deploytool.spec import EnginePlan, Range, Stage, Tensor

_HEAVY = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_SHARE = 0.9  # of the heavy layers that are not kept in FP32 on purpose must be FP16: no engine is FP32 in silence


@dataclass(frozen=True)
class BuiltEngine:
    """An engine's bytes, how many of its network's layers give which type, and what TensorRT said meanwhile."""

    engine: bytes
    layers: Mapping[str, int]
    log: tuple[str, ...]


def build(
    trt: Any,
    graph: bytes,
    plan: EnginePlan,
    inputs: Sequence[Tensor],
    free: Mapping[str, Range],
    watch: Callable[[int, int], None],
    *,
    kept: int = 0,
    probes: Collection[str] = (),
) -> BuiltEngine:
    """The engine of an ONNX graph; `free` gives the range of every free size of its inputs, the batch with them.

    `kept` heavy layers are FP32 on purpose; `probes` are tensors on the way that the engine is to give too.

    Raises StageFailed if TensorRT refuses the graph or would build FP32.
    """
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise _refused(parser, inputs)
    layers = _census(trt, network, kept)
    _mark(network, probes)
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, network, inputs, free))
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = _monitor(trt, watch)
    _aim(trt, config, plan)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise StageFailed(f"{plan.flavour} could not build the engine: {logger.last_error()}", "see its message")
    return BuiltEngine(bytes(engine), layers, tuple(logger.lines))


def _refused(parser: Any, inputs: Sequence[Tensor]) -> StageFailed:
    error = parser.get_error(0)
    where = f"{error.node_operator()} node {error.node_name()!r}" if error.node_name() else "the graph"
    remedy = "change that operator, or deploy the ONNX graph"
    if any(tensor.dtype == "uint8" for tensor in inputs):
        remedy = "bytes go into a cast and nothing else there: let the model begin with .float(), and permute after it"
    reason = (error.desc().strip().splitlines() or ["it gives no reason"])[0]
    return StageFailed(f"TensorRT does not take {where}: {reason}", remedy)


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
            f"build from the graph of the {Stage.FP16} stage",
        )
    return Counter(layer.get_output(0).dtype.name for layer in layers if layer.num_outputs)


def _profile(builder: Any, network: Any, inputs: Sequence[Tensor], free: Mapping[str, Range]) -> Any:
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
