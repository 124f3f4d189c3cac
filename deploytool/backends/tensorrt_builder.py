"""Builds a TensorRT engine from an ONNX graph: strongly typed, the same calls for TensorRT 10, 11 and TensorRT-RTX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploytool.backends import tensorrt_config, tensorrt_memory
from deploytool.builder_settings import UNSET, BuilderSettings
from deploytool.errors import StageFailed
from deploytool.spec import EnginePlan, Range, Stage, Tensor
from deploytool.targets import TENSORRT_RTX

_HEAVY = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_MIN_NARROW_SHARE = 0.9  # of the heavy layers that are not FP32 on purpose: an FP32 engine is an error, not a fallback


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine, the number of network layers by output type, and the lines that TensorRT logged.

    `timing_cache` is for the next build, empty if there is none; `reused` says that an earlier one was used.
    """

    engine: bytes
    layers: Mapping[str, int]
    log: tuple[str, ...]
    timing_cache: bytes = b""
    reused: bool = False


def build(
    trt: Any,
    graph: bytes | Path,
    plan: EnginePlan,
    inputs: Sequence[Tensor],
    ranges: Mapping[str, Range],
    watch: Callable[[int, int], None] | None,
    *,
    fp32_layers: int | None = 0,
    probes: Collection[str] = (),
    listen: Callable[[str], None] | None = None,
    settings: BuilderSettings = UNSET,
    timing_cache: bytes | None = None,
) -> BuiltEngine:
    """Builds the engine of a serialized ONNX graph, or of one in a file, whose side files TensorRT finds beside it.

    `ranges` holds every dynamic dimension, the batch included.

    `watch` is called with the steps done and the steps in total. `fp32_layers` is the number of heavy layers that are
    FP32 on purpose; None accepts any number. `probes` are intermediate tensors to add to the engine's outputs. `listen`
    receives every log message, the verbose ones too. `timing_cache` is that of an earlier build, empty for the first
    one; None builds without.

    Raises StageFailed if TensorRT rejects the graph or would build an FP32 engine, OutOfMemory if its memory or a limit
    of `settings` is too small.
    """
    logger = _logger(trt, listen)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not (parser.parse_from_file(str(graph)) if isinstance(graph, Path) else parser.parse(graph)):
        raise _parse_failure(parser, inputs)
    layers = _layer_types(trt, network, fp32_layers)
    _mark_outputs(network, probes)
    config = builder.create_builder_config()
    tensorrt_config.add_profiles(builder, network, config, inputs, ranges, settings)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if watch is not None:
        config.progress_monitor = _progress_monitor(trt, watch)
    tensorrt_config.set_compute_capabilities(trt, config, plan)
    tensorrt_config.apply(trt, config, settings)
    with_cache = timing_cache is not None and tensorrt_config.has_timing_cache(plan.flavour)
    reused = with_cache and tensorrt_config.use_timing_cache(config, timing_cache or b"")
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        _forget(trt, plan)
        problem = f"{plan.flavour} could not build the engine: {logger.last_error()}"
        raise tensorrt_memory.failure(plan.flavour, logger.shortages, settings) or StageFailed(
            problem, "see the message"
        )
    cache = bytes(config.get_timing_cache().serialize()) if with_cache else b""
    return BuiltEngine(bytes(engine), layers, tuple(logger.lines), cache, reused)


def _forget(trt: Any, plan: EnginePlan) -> None:
    """Builds a network of one copy: TensorRT-RTX 1.7 builds for the GPU of a failed build once more, whatever is asked.

    The engine that follows one that failed for compute capability 7.5 was 1.7 times as large, with 77 kernels for 48.
    """
    if plan.flavour != TENSORRT_RTX:
        return
    builder = trt.Builder(_logger(trt, None))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    copy = network.add_identity(network.add_input("x", trt.DataType.FLOAT, (1,)))
    network.mark_output(copy.get_output(0))
    builder.build_serialized_network(network, builder.create_builder_config())


def _parse_failure(parser: Any, inputs: Sequence[Tensor]) -> StageFailed:
    error = parser.get_error(0)
    where = f"{error.node_operator()} node {error.node_name()!r}" if error.node_name() else "the graph"
    remedy = "change that operator, or deploy the ONNX graph"
    if any(tensor.dtype == "uint8" for tensor in inputs):
        remedy = "TensorRT only casts uint8 inputs: start the model with .float(), and permute afterwards"
    reason = (error.desc().strip().splitlines() or ["no reason given"])[0]
    return StageFailed(f"TensorRT rejects {where}: {reason}", remedy)


def _mark_outputs(network: Any, names: Collection[str]) -> None:
    """Makes intermediate tensors outputs of the network.

    A probe is the output of a fused layer, not an operand: marking an operand would move it out of the buffer in which
    the known issue misreads it.
    """
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for output in range(layer.num_outputs):
            tensor = layer.get_output(output)
            if tensor.name in names and not tensor.is_network_output:
                network.mark_output(tensor)


def _layer_types(trt: Any, network: Any, fp32_layers: int | None) -> Counter[str]:
    """The number of layers by output type; raises StageFailed if too few heavy layers are FP16 or BF16."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    heavy = [layer for layer in layers if layer.type.name in _HEAVY]
    narrow = sum(layer.get_output(0).dtype in (trt.DataType.HALF, trt.DataType.BF16) for layer in heavy)
    if fp32_layers is not None and narrow < _MIN_NARROW_SHARE * (len(heavy) - fp32_layers):
        raise StageFailed(
            f"only {narrow} of {len(heavy)} convolution and matrix layers are FP16 or BF16: it would be an FP32 engine",
            f"build from the graph of the {Stage.FP16} stage",
        )
    return Counter(layer.get_output(0).dtype.name for layer in layers if layer.num_outputs)


def _logger(trt: Any, listen: Callable[[str], None] | None) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the bindings are chosen at run time and carry no types
        """Collects the log up to severity INFO; must outlive the builder."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.shortages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if tensorrt_memory.is_shortage(message):
                self.shortages.append(message)
            if severity <= trt.ILogger.Severity.INFO:
                self.lines.append(f"{severity.name}: {message}")
            if listen is not None:
                listen(message)

        def last_error(self) -> str:
            return next((line for line in reversed(self.lines) if "ERROR" in line), "no reason given")

    return Logger()


def _progress_monitor(trt: Any, watch: Callable[[int, int], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # as above
        """Reports the steps of the outermost phases; TensorRT calls it from its own threads."""

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
