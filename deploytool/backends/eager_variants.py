"""Runs the PyTorch model with the usual speed-ups: channels_last, FP16, torch.compile, a CUDA graph."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploytool.backends import eager
from deploytool.backends.eager import fingerprint
from deploytool.backends.session import Array, Session
from deploytool.errors import BadInput
from deploytool.loading import weights_file
from deploytool.loading.module.exportable import exportable
from deploytool.spec import Model

__all__ = ["fingerprint", "start"]

EAGER, CHANNELS_LAST, FP16, COMPILE, CUDA_GRAPH = "eager", "channels_last", "fp16", "compile", "cuda_graph"
VARIANTS = (EAGER, CHANNELS_LAST, FP16, COMPILE, CUDA_GRAPH)
GPU_VARIANTS = (FP16, CUDA_GRAPH)  # FP16 is not faster on a CPU, and a CUDA graph does not exist there
SLOW_VARIANTS = (COMPILE,)  # minutes before the first output
_WARM_UP_CALLS = 3


@contextmanager
def start(path: Path, device: str = "cpu", variant: str = EAGER) -> Iterator[Session]:
    """Loads the model of a weights file in one of the `VARIANTS`; inputs and outputs are in host memory in all of them.

    On "cuda" the session is a `GpuSession`.
    Raises BadInput for an unknown variant and MissingBackend if the device is not available; the first call raises
    StageFailed if torch cannot run the model in that variant.
    """
    if variant not in VARIANTS:
        raise BadInput(f"there is no variant {variant!r} of the eager model", f"choose from {', '.join(VARIANTS)}")
    model, module = weights_file.definition(path), eager.load_module(path).to(eager.checked_device(device))
    with eager.full_fp32(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile warns about its own internals
        converted = _make_variant(module, model, variant)
        yield GpuSession(converted, model) if device == "cuda" else eager.make_session(converted, model)


def _make_variant(module: nn.Module, model: Model, variant: str) -> nn.Module:
    flat = exportable(module, model, None)
    if variant == CHANNELS_LAST:
        return _ConvertedInputs(flat.to(memory_format=torch.channels_last), channels_last=True)  # type: ignore[call-overload]  # the overload is missing in its stubs
    if variant == FP16:
        return _ConvertedInputs(flat.half(), half=True)
    if variant == COMPILE:
        torch.compiler.reset()
        module.compile(dynamic=False)
        return module
    return CudaGraph(flat) if variant == CUDA_GRAPH else module


class _ConvertedInputs(nn.Module):
    """A module that gets its floating-point inputs in FP16 or channels_last, and returns FP32 outputs."""

    def __init__(self, module: nn.Module, *, channels_last: bool = False, half: bool = False) -> None:
        super().__init__()
        self.module, self._channels_last, self._half = module, channels_last, half

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.module(*map(self._convert, inputs))
        return tuple(output.float() for output in (result if isinstance(result, (tuple, list)) else (result,)))

    def _convert(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._half and tensor.is_floating_point():
            tensor = tensor.half()
        if self._channels_last and tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor


class CudaGraph(nn.Module):
    """A module as a CUDA graph, captured again whenever the input shapes change."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._graph: Any = None
        self._inputs: tuple[torch.Tensor, ...] = ()
        self._outputs: Any = None

    def forward(self, *inputs: torch.Tensor) -> Any:
        """The outputs; they are overwritten by the next call."""
        if [tensor.shape for tensor in self._inputs] != [tensor.shape for tensor in inputs]:
            self._capture(inputs)
        for buffer, tensor in zip(self._inputs, inputs, strict=True):
            buffer.copy_(tensor)
        self._graph.replay()
        return self._outputs

    def _capture(self, inputs: tuple[torch.Tensor, ...]) -> None:
        self._inputs = tuple(tensor.clone() for tensor in inputs)
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose their kernels here, outside the graph
            for _ in range(_WARM_UP_CALLS):
                self.module(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = self.module(*self._inputs)


class _TimedModule(nn.Module):
    """A module between two CUDA events, with the seconds that the host took to enqueue it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]  # torch's own
        self.enqueue_seconds = 0.0

    def forward(self, *inputs: torch.Tensor) -> Any:
        self.events[0].record()
        begin = time.perf_counter()
        outputs = self.module(*inputs)
        self.enqueue_seconds = time.perf_counter() - begin
        self.events[1].record()
        return outputs


class GpuSession:
    """A module on a GPU as a Session that records the time of each call.

    `gpu_ms` is the time between CUDA events directly before and after the model, without copies; `enqueue_ms` is the
    host's time to enqueue it. The events include the gaps between kernels, so `enqueue_ms` shows whether the GPU waits
    for the host.
    """

    def __init__(self, module: nn.Module, model: Model) -> None:
        self._timed = _TimedModule(exportable(module, model, None))
        self._session = eager.make_session(self._timed, model)
        self.gpu_ms: list[float] = []
        self.enqueue_ms: list[float] = []

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """The outputs by name, in host memory."""
        outputs = self._session(**inputs)
        begin, end = self._timed.events
        end.synchronize()
        self.gpu_ms.append(begin.elapsed_time(end))
        self.enqueue_ms.append(self._timed.enqueue_seconds * 1000)
        return outputs
