"""Runs an ONNX graph with the reference evaluator of onnx: slow, portable, independent of the fast runtimes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx.reference import ReferenceEvaluator

from deploytool.backends.session import Array, Session, checked_outputs, in_batches, run_failure
from deploytool.errors import MissingBackend
from deploytool.rewrites.graph import storage, weights

_NAME = "the reference evaluator"


def fingerprint() -> str:
    """The version of onnx, which contains the reference evaluator."""
    return f"onnx.reference {onnx.__version__}"


@contextmanager
def start(path: Path, device: str = "cpu") -> Iterator[Session]:
    """Loads an ONNX file on the CPU, the only device of the evaluator."""
    if device != "cpu":
        raise MissingBackend(f"{_NAME} does not run on {device}", "use --runner onnxruntime")
    model = storage.load(path)
    evaluator = ReferenceEvaluator(weights.inlined(model))

    def call(**inputs: Array) -> dict[str, Array]:
        try:
            arrays: list[Array] = evaluator.run(None, inputs)  # type: ignore[assignment]  # without names, a list
        except Exception as error:  # each operator raises what its numpy functions raise
            raise run_failure(_NAME, inputs, f"{type(error).__name__}: {error}") from error
        return checked_outputs(_NAME, inputs, dict(zip(evaluator.output_names, arrays, strict=True)))

    yield in_batches(call, _batch_dimension(model))


def _batch_dimension(model: onnx.ModelProto) -> list[int]:
    """The first dimension of the first input; 0 if it is dynamic, empty if the input is a scalar."""
    return [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim[:1]]
