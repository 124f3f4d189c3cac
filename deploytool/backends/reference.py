"""An ONNX graph run operator by operator in numpy: slow, at home everywhere, no code shared with a fast runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx.reference import ReferenceEvaluator

from deploytool.backends import Array, Session
from deploytool.errors import MissingBackend


def fingerprint() -> str:
    """The version of onnx, whose reference evaluator this is."""
    return f"onnx.reference {onnx.__version__}"


@contextmanager
def start(path: Path, device: str = "cpu") -> Iterator[Session]:
    """The graph of a file on the CPU, which is all it knows."""
    if device != "cpu":
        raise MissingBackend(f"the reference evaluator does not run on {device}", "use --runner onnxruntime")
    evaluator = ReferenceEvaluator(str(path))

    def call(**inputs: Array) -> dict[str, Array]:
        return dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))

    yield call
