"""Tests ONNX Runtime's execution providers on a graph of one node, each in a child process.

That a provider is listed does not mean that it works: a missing library shows only when a session is created.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploytool.errors import ChildFailed, StageFailed
from deploytool.host import workers
from deploytool.host.process import run_limited

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

# ONNX model y = Abs(x), in hexadecimal.
_GRAPH = (
    "08083a320a0b0a017812017922034162731201675a0f0a0178120a0a0808"
    "0112040a020802620f0a0179120a0a08080112040a02080242040a00100d"
)
_SECONDS, _GIBIBYTES = 60.0, 8.0
_PROVIDER_WORKER, _TENSORRT_WORKER = "deploytool.doctor.provider_worker", "deploytool.doctor.tensorrt_worker"

Run = Callable[[Sequence[str], float], str]  # worker module with arguments, limit in GiB; its output


@dataclass(frozen=True)
class Provider:
    """A listed provider; `starts` is true if it computed a correct result here, else `reason` says why not."""

    name: str
    starts: bool
    reason: str = ""


def _run_child(arguments: Sequence[str], gibibytes: float) -> str:
    module, *rest = arguments
    command = workers.command(module, *rest)
    return run_limited(command, what="the test", seconds=_SECONDS, gibibytes=gibibytes)


def probe_providers(run: Run = _run_child) -> tuple[Provider, ...]:
    """Tests every listed provider that deploytool uses; only a failed CPU provider if ONNX Runtime has no list."""
    try:
        listed = json.loads(run([_PROVIDER_WORKER], _GIBIBYTES))
    except (StageFailed, ValueError) as error:
        return (Provider(CPU, False, f"onnxruntime cannot be imported: {error}"),)
    return tuple(_probe(name, run) for name in (TENSORRT, CUDA, CPU) if name in listed)


def _probe(name: str, run: Run) -> Provider:
    try:
        run(
            [_PROVIDER_WORKER, _GRAPH, name], _GIBIBYTES if name == CPU else math.inf
        )  # CUDA reserves far more than it uses
    except ChildFailed as error:
        return Provider(name, False, error.last_line)
    except StageFailed as error:
        return Provider(name, False, str(error))
    return Provider(name, True)


def loadable_tensorrt(run: Run = _run_child) -> tuple[str, ...]:
    """The major releases of TensorRT (not TensorRT-RTX) that the dynamic loader finds."""
    try:
        return tuple(run([_TENSORRT_WORKER], math.inf).split())
    except StageFailed:
        return ()
