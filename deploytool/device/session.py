"""Opens one way to run a bundle: the very bytes that were hashed a moment before, whoever swaps the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from deploytool import fp16_rounding
from deploytool.backends import tensorrt
from deploytool.backends.session import Array, Session, load_backend
from deploytool.device import external_weights
from deploytool.device.candidates import Candidate
from deploytool.host import files
from deploytool.spec import Precision


@contextmanager
def open_candidate(way: Candidate) -> Iterator[Session]:
    """The artifact of a way, ready to be called; floats go in and come out as FP32, whatever it computes in.

    Raises Refused if its bytes are others than they were, and what its backend raises.
    """
    content = files.read_verified(Path(way.path), way.size, way.sha256)
    if way.backend != "tensorrt":
        external_weights.refuse(content, way.path)
    with _started(way, content) as session:
        yield _cast(session) if way.io is Precision.FP16 else session


def _started(way: Candidate, content: bytes) -> AbstractContextManager[Session]:
    if way.backend == "tensorrt":
        return tensorrt.start(content, way.device, way.flavour)
    return load_backend(way.backend).start(content, way.device)


def _cast(session: Session) -> Session:
    def call(**inputs: Array) -> dict[str, Array]:
        outputs = session(**fp16_rounding.nearest_inputs(inputs))
        return {name: _to_fp32(array) for name, array in outputs.items()}

    return call


def _to_fp32(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float16 else array
