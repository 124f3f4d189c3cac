"""Opens one way to run a bundle, after one more look at the digest of what is opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from deploytool import backends, files
from deploytool.backends import Array, Session, tensorrt
from deploytool.device.ways import Way


@contextmanager
def opened(way: Way) -> Iterator[Session]:
    """The artifact of a way, ready to be called; floats go in and come out as FP32, whatever it computes in.

    Raises Refused if its bytes are others than they were, and what its backend raises.
    """
    path = Path(way.path)
    files.hold(path, way.size, way.sha256)
    with _started(way, path) as session:
        yield _cast(session) if way.io == "fp16" else session


def _started(way: Way, path: Path) -> AbstractContextManager[Session]:
    if way.backend == "tensorrt":
        return tensorrt.start(path, way.device, way.flavour)
    return backends.load(way.backend).start(path, way.device)


def _cast(session: Session) -> Session:
    def call(**inputs: Array) -> dict[str, Array]:
        made = session(**{name: _as(array, np.float32, np.float16) for name, array in inputs.items()})
        return {name: _as(array, np.float16, np.float32) for name, array in made.items()}

    return call


def _as(array: Array, one: type, other: type) -> Array:
    return array.astype(other) if array.dtype == one else array
