"""How a thing is run: one file a library, all typed by one Protocol."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


class Session(Protocol):
    """A started artifact: arrays in by input name, arrays out by output name, in host memory when the call returns."""

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """The outputs by name."""


class Backend(Protocol):
    """Satisfied by a module `backends/<library>.py`."""

    def fingerprint(self) -> str:
        """What a result is married to: the library and its version."""

    def start(self, path: Path, device: str = "cpu") -> AbstractContextManager[Session]:
        """The artifact, ready to be called on "cpu" or "cuda"; raises MissingBackend if the device is not there."""


def load(name: str) -> Backend:
    """The backend called `name`; its library is imported here and not before."""
    return cast("Backend", import_module(f"deploytool.backends.{name}"))
