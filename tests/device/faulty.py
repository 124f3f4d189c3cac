"""The real worker with a fake backend, which fails as the environment variable FAULT says."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from deploytool.backends.session import Array, Session
from deploytool.data import golden
from deploytool.device import worker
from deploytool.device.candidates import Candidate
from deploytool.errors import MissingBackend, StageFailed

FAULT, SAMPLE = os.environ["FAULT"], Path(os.environ["SAMPLE"])


@contextmanager
def open_candidate(candidate: Candidate) -> Iterator[Session]:
    if FAULT == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if FAULT == "hang":
        time.sleep(60)
    if FAULT == "out of memory":
        raise MemoryError if candidate.device != "cpu" else _fill()
    if FAULT == "missing provider":
        raise MissingBackend("ONNX Runtime cannot run on CUDA: it fell back to CPUExecutionProvider", "install it")
    if FAULT == "wrong GPU":
        raise StageFailed("TensorRT cannot load the engine on this GPU", "build it again for this GPU and release")
    sample = golden.read(SAMPLE)
    error = 0.1 if FAULT == "wrong output" else 0.0

    def call(**inputs: Array) -> dict[str, Array]:
        """What the source answered to these very inputs."""
        (name,) = inputs
        indices = [int(np.argmin(np.abs(sample.inputs[name] - case).sum((1, 2, 3)))) for case in inputs[name]]
        return {output: array[indices] + error for output, array in sample.outputs.items()}

    yield call


def _fill() -> MemoryError:
    """More than the child may have: an address space is not the machine's."""
    return MemoryError(str(len(bytearray(64 << 30))))


worker.open_candidate = open_candidate  # type: ignore[attr-defined]  # where it was imported is where it is called
worker.main(sys.argv[1])
