"""Starts each of ONNX Runtime's providers on a graph of one node, in a child process: its own list proves nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploytool.errors import ChildFailed, StageFailed
from deploytool.host import workers
from deploytool.host.process import run_limited

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

# An ONNX model, as bytes: y = Abs(x), one float.
_GRAPH = (
    "08083a320a0b0a017812017922034162731201675a0f0a0178120a0a0808"
    "0112040a020802620f0a0179120a0a08080112040a02080242040a00100d"
)
_SECONDS, _GIBIBYTES = 60.0, 8.0
_PROVIDERS, _TENSORRT = "deploytool.doctor.provider_worker", "deploytool.doctor.tensorrt_worker"

Run = Callable[[Sequence[str], float], str]


@dataclass(frozen=True)
class Provider:
    """A provider that ONNX Runtime lists: whether it `starts`, that is, computes something here, or why it does not."""

    name: str
    starts: bool
    reason: str = ""


def _child(arguments: Sequence[str], gibibytes: float) -> str:
    module, *rest = arguments
    return run_limited(workers.command(module, *rest), what="it", seconds=_SECONDS, gibibytes=gibibytes)


def tried(run: Run = _child) -> tuple[Provider, ...]:
    """Every listed provider that deploytool uses, and whether it starts; the CPU's alone if it cannot even list."""
    try:
        listed = json.loads(run([_PROVIDERS], _GIBIBYTES))
    except (StageFailed, ValueError) as error:
        return (Provider(CPU, False, f"onnxruntime cannot be imported: {error}"),)
    return tuple(_started(name, run) for name in (TENSORRT, CUDA, CPU) if name in listed)


def _started(name: str, run: Run) -> Provider:
    try:
        run([_PROVIDERS, _GRAPH, name], _GIBIBYTES if name == CPU else math.inf)  # CUDA reserves what it likes
    except ChildFailed as error:
        return Provider(name, False, error.said)
    except StageFailed as error:
        return Provider(name, False, str(error))
    return Provider(name, True)


def loads(run: Run = _child) -> tuple[str, ...]:
    """The major releases of the full TensorRT that the system's loader finds."""
    try:
        return tuple(run([_TENSORRT], math.inf).split())
    except StageFailed:
        return ()
