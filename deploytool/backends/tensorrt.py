"""TensorRT and TensorRT-RTX: one set of calls for both, and an engine as they run it on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from deploytool.backends.session import Array, Session
from deploytool.errors import MissingBackend, StageFailed
from deploytool.host import machine

_PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx", "cuda.bindings.runtime": "cuda-bindings"}


def fingerprint() -> str:
    """The installed flavours with their versions: an engine runs on the release that built it and on no other."""
    found = [f"{name} {machine.version(name)}" for name in ("tensorrt", "tensorrt-rtx") if machine.version(name)]
    return ", ".join(found) or "no TensorRT"


def library(name: str) -> Any:
    """The Python module of a TensorRT flavour or of the CUDA runtime; raises MissingBackend if it is not there."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingBackend(f"{name} cannot be imported: {error}", f"pip install {_PACKAGES[name]}") from error


PORTABLE = ("8.0", "8.6", "8.9", "12.0", "12.1")  # what a TensorRT-RTX engine without named capabilities covers


def is_for_this_gpu(flavour: str, capabilities: Sequence[str]) -> bool:
    """Whether an engine of that flavour for those compute capabilities is meant for the first GPU of this machine."""
    return any(gpu.capability in compute_capabilities(flavour, capabilities) for gpu in machine.gpus()[:1])


def compute_capabilities(flavour: str, capabilities: Sequence[str]) -> tuple[str, ...]:
    """The compute capabilities of an engine for which these, or none, were named."""
    own = tuple(gpu.capability for gpu in machine.gpus()[:1]) if flavour == "tensorrt" else PORTABLE
    return tuple(capabilities) or own


@contextmanager
def start(path: Path | bytes, device: str = "cuda", flavour: str = "tensorrt_rtx") -> Iterator[Session]:
    """An engine, in a file or in its bytes, on the first GPU.

    The driver is asked first: without one, a TensorRT runtime hands out objects that crash the process.
    Raises MissingBackend where there is no GPU, StageFailed if the engine does not start on it.
    """
    if device != "cuda" or not machine.gpus():
        raise MissingBackend("an engine needs a CUDA GPU, and no driver answers here", "run it on the device it is for")
    plan = path.read_bytes() if isinstance(path, Path) else path
    engine = Engine(library(flavour), library("cuda.bindings.runtime"), plan)
    del path, plan  # the engine has a copy
    try:
        yield engine
    finally:
        engine.close()


class Engine:
    """A deserialized engine with its stream, its buffers and its CUDA graph, for one set of input shapes at a time."""

    def __init__(self, trt: Any, cuda: Any, plan: bytes) -> None:
        self._trt, self._cuda = trt, cuda
        self._logger = trt.Logger(trt.Logger.ERROR)  # must outlive everything below
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise StageFailed("TensorRT refuses the engine on this GPU", "build it again for this GPU and release")
        self._context = self._engine.create_execution_context()
        self._stream = self._ask(cuda.cudaStreamCreate())
        self._events = [self._ask(cuda.cudaEventCreate()) for _ in range(2)]
        self._shapes: Mapping[str, tuple[int, ...]] = {}
        self._buffers: dict[str, int] = {}
        self._outputs: dict[str, Array] = {}
        self._graph: Any = None
        self.gpu_ms: list[float] = []

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """Copies in, runs, copies out; `gpu_ms` gains the time between, as the GPU's own events saw it."""
        shapes = {name: array.shape for name, array in inputs.items()}
        if shapes != self._shapes:
            self._bind(inputs)
            self._shapes = shapes
        cuda = self._cuda
        for name, array in inputs.items():
            self._copy(self._buffers[name], array.ctypes.data, array.nbytes, cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)
        self._ask(cuda.cudaEventRecord(self._events[0], self._stream))
        self._launch()
        self._ask(cuda.cudaEventRecord(self._events[1], self._stream))
        for name, array in self._outputs.items():
            self._copy(array.ctypes.data, self._buffers[name], array.nbytes, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)
        self._ask(cuda.cudaStreamSynchronize(self._stream))
        self.gpu_ms.append(self._ask(cuda.cudaEventElapsedTime(*self._events)))
        return {name: array.copy() for name, array in self._outputs.items()}

    def close(self) -> None:
        """Gives the GPU's memory back."""
        self._release()
        for event in self._events:
            self._ask(self._cuda.cudaEventDestroy(event))
        self._ask(self._cuda.cudaStreamDestroy(self._stream))

    def _bind(self, inputs: Mapping[str, Array]) -> None:
        """Sets the shapes, allocates every buffer, runs once, and captures that run as a CUDA graph."""
        self._release()
        for name, array in inputs.items():
            if not self._context.set_input_shape(name, array.shape):
                raise StageFailed(f"the engine does not take {name} of shape {array.shape}", "see --batch at export")
            self._allocate(name, array.nbytes)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        for name in names:
            if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.OUTPUT:
                shape = tuple(self._context.get_tensor_shape(name))
                self._outputs[name] = np.empty(shape, self._trt.nptype(self._engine.get_tensor_dtype(name)))
                self._allocate(name, self._outputs[name].nbytes)
        self._enqueue()
        self._ask(self._cuda.cudaStreamSynchronize(self._stream))
        self._graph = self._capture()

    def _capture(self) -> Any:
        """The run as a CUDA graph, or None where the engine cannot be captured: it is then enqueued each time."""
        cuda = self._cuda
        self._ask(
            cuda.cudaStreamBeginCapture(self._stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        )
        enqueued = self._context.execute_async_v3(self._stream)
        error, graph = cuda.cudaStreamEndCapture(self._stream)
        if not enqueued or int(error) != 0:
            return None
        executable = self._ask(cuda.cudaGraphInstantiate(graph, 0))
        self._ask(cuda.cudaGraphDestroy(graph))
        return executable

    def _launch(self) -> None:
        if self._graph is None:
            self._enqueue()
        else:
            self._ask(self._cuda.cudaGraphLaunch(self._graph, self._stream))

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise StageFailed("TensorRT could not run the engine", "build it again for this GPU and release")

    def _allocate(self, name: str, size: int) -> None:
        self._buffers[name] = self._ask(self._cuda.cudaMalloc(size))
        self._context.set_tensor_address(name, self._buffers[name])

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        self._ask(self._cuda.cudaMemcpyAsync(to, source, size, kind, self._stream))

    def _release(self) -> None:
        for buffer in self._buffers.values():
            self._ask(self._cuda.cudaFree(buffer))
        if self._graph is not None:
            self._ask(self._cuda.cudaGraphExecDestroy(self._graph))
        self._buffers, self._outputs, self._graph = {}, {}, None

    def _ask(self, answer: tuple[Any, ...]) -> Any:
        """What a CUDA call returned; raises StageFailed if it reports an error."""
        error, *values = answer
        if int(error) != 0:
            raise StageFailed(f"CUDA reports {error}", "check the driver and the free memory of the GPU")
        return values[0] if values else None
