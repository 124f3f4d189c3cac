"""Loads TensorRT or TensorRT-RTX, and runs an engine on a GPU with the calls that both have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from deploytool.backends import tensorrt_refit
from deploytool.backends.session import Array, Session
from deploytool.errors import MissingBackend, StageFailed
from deploytool.host import machine
from deploytool.targets import FLAVOURS, TENSORRT_RTX

_CUDA = "cuda.bindings.runtime"
_DISTRIBUTIONS = {**{name: flavour.distribution for name, flavour in FLAVOURS.items()}, _CUDA: "cuda-bindings"}


def fingerprint() -> str:
    """The installed flavours with their versions: an engine runs only on the version that built it."""
    installed = [f"{flavour.distribution} {flavour.version}" for flavour in FLAVOURS.values() if flavour.version]
    return ", ".join(installed) or "no TensorRT"


def library(name: str) -> Any:
    """The Python module of a TensorRT flavour or of the CUDA runtime; raises MissingBackend if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingBackend(f"{name} cannot be imported: {error}", f"pip install {_DISTRIBUTIONS[name]}") from error


def is_for_this_gpu(flavour: str, capabilities: Sequence[str]) -> bool:
    """Whether an engine of that flavour for those compute capabilities supports the first GPU of this machine."""
    return any(gpu.capability in compute_capabilities(flavour, capabilities) for gpu in machine.gpus()[:1])


def compute_capabilities(flavour: str, capabilities: Sequence[str]) -> tuple[str, ...]:
    """The compute capabilities that an engine supports: those named for it, else the default of its flavour."""
    if capabilities:
        return tuple(capabilities)
    if FLAVOURS[flavour].needs_gpu:
        return tuple(gpu.capability for gpu in machine.gpus()[:1])
    return FLAVOURS[flavour].default_capabilities


@contextmanager
def start(
    path: Path | bytes, device: str = "cuda", flavour: str = TENSORRT_RTX, weights: Path | bytes | None = None
) -> Iterator[Session]:
    """Loads an engine, from a file or from its bytes, on the first GPU; `weights` is the graph of a stripped one.

    Checks for a driver first: without one, a TensorRT runtime returns objects that crash the process.
    Raises MissingBackend where there is no GPU, StageFailed if the engine cannot be loaded on it.
    """
    if device != "cuda" or not machine.gpus():
        raise MissingBackend("an engine needs a CUDA GPU, and no driver was found", "run it on the target device")
    plan = path.read_bytes() if isinstance(path, Path) else path
    graph = weights.read_bytes() if isinstance(weights, Path) else weights
    engine = Engine(library(flavour), library(_CUDA), plan, graph)
    del path, plan, weights, graph  # the engine has a copy
    try:
        yield engine
    finally:
        engine.close()


class Engine:
    """A deserialized engine with its stream, its buffers and its CUDA graph, for one set of input shapes at a time."""

    def __init__(self, trt: Any, cuda: Any, plan: bytes, weights: bytes | None = None) -> None:
        self._trt, self._cuda = trt, cuda
        self._logger = trt.Logger(trt.Logger.ERROR)  # must outlive everything below
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise StageFailed("TensorRT cannot load the engine on this GPU", "build it again for this GPU and release")
        if weights is not None:
            tensorrt_refit.refit(trt, self._engine, self._logger, weights)
        self._context = self._engine.create_execution_context()
        self._stream = self._checked(cuda.cudaStreamCreate())
        self._events = [self._checked(cuda.cudaEventCreate()) for _ in range(2)]
        self._shapes: Mapping[str, tuple[int, ...]] = {}
        self._buffers: dict[str, int] = {}
        self._outputs: dict[str, Array] = {}
        self._graph: Any = None
        self._profile = 0  # that of a new context
        self.gpu_ms: list[float] = []

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """Copies the inputs in, runs, copies the outputs out; appends the run time by CUDA events to `gpu_ms`."""
        shapes = {name: array.shape for name, array in inputs.items()}
        if shapes != self._shapes:
            self._bind(inputs)
            self._shapes = shapes
        cuda = self._cuda
        for name, array in inputs.items():
            self._copy(self._buffers[name], array.ctypes.data, array.nbytes, cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)
        self._checked(cuda.cudaEventRecord(self._events[0], self._stream))
        self._launch()
        self._checked(cuda.cudaEventRecord(self._events[1], self._stream))
        for name, array in self._outputs.items():
            self._copy(array.ctypes.data, self._buffers[name], array.nbytes, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)
        self._checked(cuda.cudaStreamSynchronize(self._stream))
        self.gpu_ms.append(self._checked(cuda.cudaEventElapsedTime(*self._events)))
        return {name: array.copy() for name, array in self._outputs.items()}

    def close(self) -> None:
        """Frees the GPU memory, the events and the stream."""
        self._release()
        for event in self._events:
            self._checked(self._cuda.cudaEventDestroy(event))
        self._checked(self._cuda.cudaStreamDestroy(self._stream))

    def _bind(self, inputs: Mapping[str, Array]) -> None:
        """Sets the shapes, allocates every buffer, runs once, and captures that run as a CUDA graph."""
        self._release()
        self._select_profile({name: array.shape for name, array in inputs.items()})
        for name, array in inputs.items():
            if not self._context.set_input_shape(name, array.shape):
                problem = f"the engine does not accept {name} of shape {array.shape}"
                raise StageFailed(problem, "see --batch and --size at export")
            self._allocate(name, array.nbytes)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        for name in names:
            if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.OUTPUT:
                shape = tuple(self._context.get_tensor_shape(name))
                self._outputs[name] = np.empty(shape, self._trt.nptype(self._engine.get_tensor_dtype(name)))
                self._allocate(name, self._outputs[name].nbytes)
        self._enqueue()
        self._checked(self._cuda.cudaStreamSynchronize(self._stream))
        self._graph = self._capture()

    def _select_profile(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes the optimization profile current that has these shapes; without one, the engine refuses the shapes."""
        profiles = range(self._engine.num_optimization_profiles)
        fitting = (index for index in profiles if all(self._accepts(index, *each) for each in shapes.items()))
        index = next(fitting, self._profile)
        if index == self._profile:
            return
        if not self._context.set_optimization_profile_async(index, self._stream):
            raise StageFailed(
                f"the engine does not take its profile {index}", "build it again for this GPU and release"
            )
        self._checked(self._cuda.cudaStreamSynchronize(self._stream))
        self._profile = index

    def _accepts(self, index: int, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, index)
        return all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True))

    def _capture(self) -> Any:
        """The run as a CUDA graph; None where the engine cannot be captured, and every call enqueues it instead."""
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._checked(cuda.cudaStreamBeginCapture(self._stream, mode))
        enqueued = self._context.execute_async_v3(self._stream)
        error, graph = cuda.cudaStreamEndCapture(self._stream)
        if not enqueued or int(error) != 0:
            return None
        executable = self._checked(cuda.cudaGraphInstantiate(graph, 0))
        self._checked(cuda.cudaGraphDestroy(graph))
        return executable

    def _launch(self) -> None:
        if self._graph is None:
            self._enqueue()
        else:
            self._checked(self._cuda.cudaGraphLaunch(self._graph, self._stream))

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise StageFailed("TensorRT cannot run the engine", "build it again for this GPU and release")

    def _allocate(self, name: str, size: int) -> None:
        self._buffers[name] = self._checked(self._cuda.cudaMalloc(size))
        self._context.set_tensor_address(name, self._buffers[name])

    def _copy(self, destination: int, source: int, size: int, kind: Any) -> None:
        self._checked(self._cuda.cudaMemcpyAsync(destination, source, size, kind, self._stream))

    def _release(self) -> None:
        for buffer in self._buffers.values():
            self._checked(self._cuda.cudaFree(buffer))
        if self._graph is not None:
            self._checked(self._cuda.cudaGraphExecDestroy(self._graph))
        self._buffers, self._outputs, self._graph = {}, {}, None

    def _checked(self, result: tuple[Any, ...]) -> Any:
        """The value that a CUDA call returned; raises StageFailed if it reports an error."""
        error, *values = result
        if int(error) != 0:
            raise StageFailed(f"CUDA reports {error}", "check the driver and the free memory of the GPU")
        return values[0] if values else None
