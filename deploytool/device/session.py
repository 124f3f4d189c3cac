"""Opens a session of a candidate from bytes whose digest was just checked, whatever replaces the file meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from deploytool.backends import tensorrt
from deploytool.backends.session import Array, Session, load_backend, load_graph_backend
from deploytool.device import external_weights
from deploytool.device.candidates import Candidate
from deploytool.host import files, fp16_rounding
from deploytool.spec import Precision


@contextmanager
def open_candidate(candidate: Candidate) -> Iterator[Session]:
    """A session of a candidate; floating-point inputs and outputs are FP32, whatever precision it computes in.

    Raises Refused if the digest of the file differs from the manifest's, and what the backend raises.
    """
    content = files.read_verified(Path(candidate.path), candidate.size, candidate.sha256)
    with _start(candidate, content) as session:
        del content  # the session has a copy
        yield _with_fp32_io(session) if candidate.io is Precision.FP16 else session


def _start(candidate: Candidate, content: bytes) -> AbstractContextManager[Session]:
    if candidate.backend == "tensorrt":
        graphs = [files.read_verified(Path(each.path), each.size, each.sha256) for each in candidate.weights]
        return tensorrt.start(content, candidate.device, candidate.flavour, next(iter(graphs), None))
    weights = external_weights.load(candidate, content)
    if candidate.backend == "openvino":  # a graph with side files is no candidate: all weights are in its bytes
        return load_backend(candidate.backend).start(content, candidate.device)
    return load_graph_backend().start(content, candidate.device, weights=weights)


def _with_fp32_io(session: Session) -> Session:
    def call(**inputs: Array) -> dict[str, Array]:
        outputs = session(**fp16_rounding.nearest_inputs(inputs))
        return {name: _to_fp32(array) for name, array in outputs.items()}

    return call


def _to_fp32(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float16 else array
