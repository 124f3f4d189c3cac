"""The interface of a backend, and what backends share: error messages, batch checks, batching for fixed-size graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from deploytool.errors import StageFailed

Array: TypeAlias = npt.NDArray[Any]
FIXED_SIZE_REMEDY = "if the model fixes a size, take it from x.shape: export fixes len(), int() and numbers"


class Session(Protocol):
    """A loaded artifact: takes arrays by input name, returns arrays by output name, both in host memory."""

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """The outputs by name."""


class Backend(Protocol):
    """The functions of a module `backends/<library>.py`."""

    def fingerprint(self) -> str:
        """The library and its version; a cached result is valid for this version only."""

    def start(self, path: Path | bytes, device: str = "cpu") -> AbstractContextManager[Session]:
        """Loads an artifact on "cpu" or "cuda"; raises MissingBackend if the device is not available.

        The backends that run on a device also accept the bytes of a file.
        """


class GraphBackend(Protocol):
    """The function of the module `backends/onnxruntime.py` that a device calls."""

    def start(
        self, path: Path | bytes, device: str = "cpu", *, weights: Mapping[str, Array]
    ) -> AbstractContextManager[Session]:
        """Loads a graph on "cpu", "cuda" or "tensorrt", with weights that are passed beside it."""


def run_failure(backend: str, inputs: Mapping[str, Array], reason: str) -> StageFailed:
    """The error for an artifact that failed on these inputs: backend, input shapes and reason in one line."""
    shapes = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
    return StageFailed(f"{backend} fails on {shapes}: {' '.join(reason.split())}", FIXED_SIZE_REMEDY)


def checked_outputs(backend: str, inputs: Mapping[str, Array], outputs: dict[str, Array]) -> dict[str, Array]:
    """The outputs; raises StageFailed if the first dimension of one is not the batch size of the inputs."""
    batch_size = len(next(iter(inputs.values())))
    for name, array in outputs.items():
        if array.shape[:1] != (batch_size,):
            problem = f"{backend} returns {name} as {array.shape} for a batch of {batch_size}"
            raise StageFailed(problem, FIXED_SIZE_REMEDY)
    return outputs


def in_batches(session: Session, batch: Sequence[object]) -> Session:
    """A session that takes any batch size, also where the artifact is exported with a fixed one.

    `batch` holds the batch dimension of the first input as the library reports it, and is empty for a scalar input.
    For a fixed size, the inputs are split into batches of that size; the last one is padded with the first cases.
    """
    size = batch[0] if batch else None
    if not isinstance(size, int) or size < 1:
        return session

    def call(**inputs: Array) -> dict[str, Array]:
        cases = len(next(iter(inputs.values())))
        if cases == size:
            return session(**inputs)
        batches = [np.arange(start, start + size) % cases for start in range(0, cases, size)]
        results = [session(**{name: array[rows] for name, array in inputs.items()}) for rows in batches]
        return {name: np.concatenate([result[name] for result in results])[:cases] for name in results[0]}

    return call


@contextmanager
def until_end(session: Session) -> Iterator[Session]:
    """The session until the body ends; then its model is free, although a caller may still have a variable with it.

    Without it, the model of one session would stay in memory while the next one is loaded.
    """
    held = [session]
    del session

    def call(**inputs: Array) -> dict[str, Array]:
        return held[0](**inputs)

    try:
        yield call
    finally:
        held.clear()


def load_graph_backend() -> GraphBackend:
    """The backend of ONNX Runtime, which is imported here and not before."""
    return cast("GraphBackend", import_module("deploytool.backends.onnxruntime"))


def load_backend(name: str) -> Backend:
    """The backend called `name`; its library is imported here and not before."""
    return cast("Backend", import_module(f"deploytool.backends.{name}"))
