"""Runs an ONNX graph with OpenVINO on the CPU, in FP32 where the graph is FP32; a QDQ graph runs in INT8."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from deploytool.backends.session import Array, Session, checked_outputs, in_batches, run_failure, until_end
from deploytool.errors import MissingBackend, OutOfMemory, StageFailed
from deploytool.host import machine

MAX_STATIC_SHAPES = 3  # further shapes run in the model with dynamic shapes: each compiled model has its own weights

_TELEMETRY = "openvino_telemetry"
_SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",  # otherwise FP32 is computed in BF16 on processors that have it
    "EXECUTION_MODE_HINT": "ACCURACY",
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # two processes would pin their threads to the same processors
}
_INT8_KERNELS = "LP_TRANSFORMS_MODE"  # without them, a QDQ graph is computed in FP32 from the quantized values
_NARROW = 64  # two products of such weights with UINT8 activations fit into 16 bits
_OUT_OF_MEMORY = re.compile("bad[_ ]alloc|could not allocate|not enough memory|out of memory", re.IGNORECASE)
_NOISE = re.compile(r"Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:|Summary:|To facilitate the conversion.*")
_Key: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]


def fingerprint() -> str:
    """The version of OpenVINO."""
    return f"openvino {machine.version('openvino')}"


def is_installed() -> bool:
    """Whether OpenVINO is installed; it is not imported."""
    return bool(machine.version("openvino"))


@contextmanager
def start(path: Path | bytes, device: str = "cpu", threads: int = 0, *, batch_first: bool = True) -> Iterator[Session]:
    """Loads a graph, from a file or from its bytes, on "cpu"; bytes must not name weights in side files.

    `threads` is the number of threads; 0 takes OMP_NUM_THREADS, and without it OpenVINO chooses. Without `batch_first`,
    the batch may be anywhere: inputs are not split into batches of a fixed size. The session may be called from several
    threads, one after the other. The first call with new input shapes takes longer: see `MAX_STATIC_SHAPES`.
    """
    if device != "cpu":
        raise MissingBackend(f"OpenVINO is used on the CPU only, not on {device}", "choose the CPU, or another runtime")
    models = _Models(path, threads)
    batch = models.batch()

    def call(**inputs: Array) -> dict[str, Array]:
        try:
            outputs = models.run(inputs)
        except Exception as error:  # OpenVINO raises RuntimeError, without classes of its own
            failure = run_failure("OpenVINO", inputs, _reason(error))
            raise _error_class(error)(str(failure), failure.remedy) from error
        return checked_outputs("OpenVINO", inputs, outputs) if batch_first else outputs

    with until_end(in_batches(call, batch) if batch_first else call) as held:
        yield held


def runtime_model(path: Path) -> Any:
    """The graph as OpenVINO runs it on this CPU, with the kernel and the precision of every operation."""
    return _Models(path, 0).runtime_model()


class _Models:
    """A graph compiled for dynamic shapes, and again for the first few shapes that it is called with.

    A model for one shape is up to a tenth faster than the one for all shapes.
    """

    def __init__(self, path: Path | bytes, threads: int) -> None:
        loaded = library()
        self._core, self._shape_class, self._lock = loaded.Core(), loaded.PartialShape, threading.Lock()
        count = threads or machine.thread_limit()
        self._settings: dict[str, object] = {**_SETTINGS, **({"INFERENCE_NUM_THREADS": count} if count else {})}
        try:
            self._graph = self._core.read_model(path) if isinstance(path, Path) else self._core.read_model(path, b"")
            saturates = machine.saturates_int8() and not _has_narrow_weights(self._graph)
            if saturates or _averages_padding(self._graph):
                self._settings[_INT8_KERNELS] = False
            self._outputs = [output.any_name for output in self._graph.outputs]
            self._ports = {
                port.any_name: (port.element_type.to_dtype(), port.partial_shape) for port in self._graph.inputs
            }
            self._dynamic = self._compile(self._graph)
        except Exception as error:  # OpenVINO raises RuntimeError, without classes of its own
            graph = path if isinstance(path, Path) else "the graph"
            remedy = "see the message, and check that the file is complete"
            raise _error_class(error)(f"OpenVINO cannot load {graph}: {_reason(error)}", remedy) from error
        self._static: dict[_Key, Any] = {}

    def batch(self) -> tuple[object, ...]:
        """The batch dimension of the first input if it has a fixed size; empty otherwise."""
        shape = self._graph.inputs[0].partial_shape if self._graph.inputs else None
        return (shape[0].get_length(),) if shape is not None and len(shape) and shape[0].is_static else ()

    def runtime_model(self) -> Any:
        """The graph for dynamic shapes as it is run."""
        return self._dynamic.get_compiled_model().get_runtime_model()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name; one call at a time, because a request cannot run twice at once."""
        self._check(inputs)
        with self._lock:
            request = self._request(inputs)
            request.infer(dict(inputs), share_inputs=True)
            outputs = enumerate(self._outputs)  # `request.output_tensors` takes 40 microseconds a call
            return {name: np.array(request.get_output_tensor(index).data) for index, name in outputs}

    def _check(self, inputs: Mapping[str, Array]) -> None:
        """Raises TypeError for inputs that the graph does not take: OpenVINO would convert or reshape some of them."""
        if set(inputs) != set(self._ports):
            raise TypeError(f"the graph takes {', '.join(self._ports)}, not {', '.join(inputs) or 'nothing'}")
        for name, array in inputs.items():
            dtype, shape = self._ports[name]
            if array.dtype != dtype or not shape.compatible(self._shape_class(list(array.shape))):
                raise TypeError(f"{name} is {array.dtype} {array.shape}, and the graph takes {dtype} {shape}")

    def _request(self, inputs: Mapping[str, Array]) -> Any:
        """A request of the model for these shapes; of the dynamic one if the shapes are fixed or too many."""
        key = tuple(sorted((name, array.shape) for name, array in inputs.items()))
        if key in self._static:
            return self._static[key]
        if not self._graph.is_dynamic() or len(self._static) >= MAX_STATIC_SHAPES:
            return self._dynamic
        static = self._graph.clone()
        static.reshape({name: list(shape) for name, shape in key})
        self._static[key] = self._compile(static)
        return self._static[key]

    def _compile(self, graph: Any) -> Any:
        return self._core.compile_model(graph, "CPU", self._settings).create_infer_request()


def _has_narrow_weights(graph: Any) -> bool:
    """Whether all INT8 weights of a graph have 7 bits, and none is quantised by a node: no sum saturates then."""
    for node in graph.get_ops():
        kind = node.get_type_name()
        if kind == "FakeQuantize" and node.input_value(0).get_node().get_type_name() == "Constant":
            return False
        is_int8 = kind == "Constant" and node.get_element_type().get_type_name() == "i8"
        if is_int8 and np.abs(node.data.astype(np.int16)).max(initial=0) > _NARROW:
            return False
    return True


def _averages_padding(graph: Any) -> bool:
    """Whether an average counts padding, and its inputs are not plainly dequantised with the zero point 0.

    The INT8 kernels of OpenVINO 2026.4 pad with the integer 0 there, whatever the zero point is.
    """
    for node in graph.get_ops():
        if node.get_type_name() != "AvgPool":
            continue
        settings = node.get_attributes()
        is_padded = settings["auto_pad"] != "explicit" or any((*settings["pads_begin"], *settings["pads_end"]))
        if is_padded and not settings["exclude-pad"] and not _has_zero_point_zero(node.input_value(0).get_node()):
            return True
    return False


def _has_zero_point_zero(node: Any) -> bool:
    """Whether a node dequantises with the zero point 0."""
    if node.get_type_name() != "Multiply":
        return False
    shifted = node.input_value(0).get_node()
    if shifted.get_type_name() != "Subtract":
        return bool(shifted.get_type_name() == "Convert")
    zero = shifted.input_value(1).get_node()
    zero = zero.input_value(0).get_node() if zero.get_type_name() == "Convert" else zero
    return zero.get_type_name() == "Constant" and not np.any(zero.data)


@cache
def library() -> Any:
    """The library; it sends an event to a server when it is imported with its telemetry package, so without it."""
    was_loaded = _TELEMETRY in sys.modules
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]  # None makes an import of it fail
    try:
        return import_module("openvino")
    except ImportError as error:
        raise MissingBackend(f"OpenVINO cannot be imported: {error}", "pip install 'deploytool[openvino]'") from error
    finally:
        if not was_loaded:
            del sys.modules[_TELEMETRY]


def _error_class(error: Exception) -> type[StageFailed]:
    """The class to raise for an error; OpenVINO reports a lack of memory in its message only."""
    return OutOfMemory if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) else StageFailed


def _reason(error: Exception) -> str:
    """The reason in an error message in one line, without the places in OpenVINO's source."""
    return " ".join(_NOISE.sub(" ", str(error)).split())
