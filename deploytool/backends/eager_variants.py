"""The model in PyTorch as one would tune it before any export: channels_last, FP16, torch.compile, a CUDA graph."""

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
FORMS = (EAGER, CHANNELS_LAST, FP16, COMPILE, CUDA_GRAPH)
ON_GPU = (FP16, CUDA_GRAPH)  # FP16 is no gain on a CPU, and a CUDA graph is none there
SLOW = (COMPILE,)  # minutes before the first answer


@contextmanager
def start(path: Path, device: str = "cpu", form: str = EAGER) -> Iterator[Session]:
    """The model of a weights file in one of the forms; arrays in and out lie in host memory, whatever the form.

    On "cuda" the session has `gpu_ms` and `enqueue_ms`, as `GpuSession` says.
    Raises BadInput for another form, MissingBackend where the device is not there; the first call, StageFailed if torch
    cannot run the model so.
    """
    if form not in FORMS:
        raise BadInput(f"there is no form {form!r} of an eager model", f"choose from {', '.join(FORMS)}")
    model, made = weights_file.definition(path), eager.load_module(path).to(eager.checked_device(device))
    with eager.full_fp32(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile speaks of its own parts
        shaped = _formed(made, model, form)
        yield GpuSession(shaped, model) if device == "cuda" else eager.make_session(shaped, model)


def _formed(module: nn.Module, model: Model, form: str) -> nn.Module:
    flat = exportable(module, model, None)
    if form == CHANNELS_LAST:
        return _Fed(flat.to(memory_format=torch.channels_last), channels_last=True)  # type: ignore[call-overload]  # its stubs forget this form
    if form == FP16:
        return _Fed(flat.half(), half=True)
    if form == COMPILE:
        torch.compiler.reset()
        module.compile(dynamic=False)
        return module
    return CudaGraph(flat) if form == CUDA_GRAPH else module


class _Fed(nn.Module):
    """A module whose floating-point inputs are changed first, and whose outputs are FP32 again."""

    def __init__(self, module: nn.Module, *, channels_last: bool = False, half: bool = False) -> None:
        super().__init__()
        self.module, self._channels_last, self._half = module, channels_last, half

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = self.module(*map(self._changed, given))
        return tuple(each.float() for each in (made if isinstance(made, (tuple, list)) else (made,)))

    def _changed(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._half and tensor.is_floating_point():
            tensor = tensor.half()
        if self._channels_last and tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor


class CudaGraph(nn.Module):
    """A module as a CUDA graph, captured anew for every set of input shapes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._graph: Any = None
        self._given: tuple[torch.Tensor, ...] = ()
        self._made: Any = None

    def forward(self, *given: torch.Tensor) -> Any:
        """The outputs; they are overwritten by the next call."""
        if [each.shape for each in self._given] != [each.shape for each in given]:
            self._capture(given)
        for own, new in zip(self._given, given, strict=True):
            own.copy_(new)
        self._graph.replay()
        return self._made

    def _capture(self, given: tuple[torch.Tensor, ...]) -> None:
        self._given = tuple(each.clone() for each in given)
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries choose their kernels here, outside the graph
            for _ in range(3):
                self.module(*self._given)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._made = self.module(*self._given)


class _Noted(nn.Module):
    """A module between two CUDA events, with the seconds that the host needed to hand it over."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.events = [torch.cuda.Event(enable_timing=True) for _ in "ab"]  # type: ignore[no-untyped-call]  # torch's own
        self.enqueue_seconds = 0.0

    def forward(self, *given: torch.Tensor) -> Any:
        self.events[0].record()
        begun = time.perf_counter()
        made = self.module(*given)
        self.enqueue_seconds = time.perf_counter() - begun
        self.events[1].record()
        return made


class GpuSession:
    """A module on a GPU as a Session that notes what each call took there.

    `gpu_ms` is the time between CUDA events right before and after the model, copies aside; `enqueue_ms` what the host
    needed to hand it over. Events count the gaps between kernels too, so the second tells who waits for whom.
    """

    def __init__(self, module: nn.Module, model: Model) -> None:
        self._noted = _Noted(exportable(module, model, None))
        self._session = eager.make_session(self._noted, model)
        self.gpu_ms: list[float] = []
        self.enqueue_ms: list[float] = []

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """The outputs by name, in host memory."""
        outputs = self._session(**inputs)
        begin, end = self._noted.events
        end.synchronize()
        self.gpu_ms.append(begin.elapsed_time(end))
        self.enqueue_ms.append(self._noted.enqueue_seconds * 1000)
        return outputs
