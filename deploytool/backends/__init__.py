"""How a thing is run: one file a library, all typed by one Protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from deploytool.errors import StageFailed

Array: TypeAlias = npt.NDArray[Any]
FIXED = "if a size is fixed in the model, take it from x.shape: len(), int() and numbers are fixed at export"


class Session(Protocol):
    """A started artifact: arrays in by input name, arrays out by output name, in host memory when the call returns."""

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """The outputs by name."""


class Backend(Protocol):
    """Satisfied by a module `backends/<library>.py`."""

    def fingerprint(self) -> str:
        """What a result is married to: the library and its version."""

    def start(self, path: Path | bytes, device: str = "cpu") -> AbstractContextManager[Session]:
        """The artifact, ready to be called on "cpu" or "cuda"; raises MissingBackend if the device is not there.

        What runs on a device takes the bytes of a file too.
        """


def failure_line(what: str, inputs: Mapping[str, Array], reason: str) -> StageFailed:
    """One line for an artifact that could not be run on these inputs."""
    fed = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
    return StageFailed(f"{what} fails on {fed}: {' '.join(reason.split())}", FIXED)


def checked_outputs(what: str, inputs: Mapping[str, Array], outputs: dict[str, Array]) -> dict[str, Array]:
    """The outputs, if each has as many cases as the inputs; raises StageFailed for one of another batch."""
    cases = len(next(iter(inputs.values())))
    for name, array in outputs.items():
        if array.shape[:1] != (cases,):
            raise StageFailed(f"{what} gives {name} as {array.shape} for a batch of {cases}", FIXED)
    return outputs


def in_batches(session: Session, batch: Sequence[object]) -> Session:
    """The session; one whose first dimension is a number takes any number of cases all the same, so many at a time.

    `batch` is that dimension as its library gives it, empty where there is none. The last batch is filled up.
    """
    size = batch[0] if batch else None
    if not isinstance(size, int) or size < 1:
        return session

    def call(**inputs: Array) -> dict[str, Array]:
        cases = len(next(iter(inputs.values())))
        if cases == size:
            return session(**inputs)
        places = [np.arange(start, start + size) % cases for start in range(0, cases, size)]
        parts = [session(**{name: array[each] for name, array in inputs.items()}) for each in places]
        return {name: np.concatenate([part[name] for part in parts])[:cases] for name in parts[0]}

    return call


def load(name: str) -> Backend:
    """The backend called `name`; its library is imported here and not before."""
    return cast("Backend", import_module(f"deploytool.backends.{name}"))
