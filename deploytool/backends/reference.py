"""An ONNX graph run operator by operator in numpy: slow, at home everywhere, no code shared with a fast runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx.reference import ReferenceEvaluator

from deploytool.backends.session import Array, Session, checked_outputs, in_batches, run_failure
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
        try:
            made: list[Array] = evaluator.run(None, inputs)  # type: ignore[assignment]  # without names, a list
        except Exception as error:  # each operator raises what its numpy functions raise
            raise run_failure("the reference evaluator", inputs, f"{type(error).__name__}: {error}") from error
        return checked_outputs("the reference evaluator", inputs, dict(zip(evaluator.output_names, made, strict=True)))

    yield in_batches(call, _batch(onnx.load(path, load_external_data=False)))


def _batch(model: onnx.ModelProto) -> list[int]:
    """The first dimension of the first input, where it is a number."""
    return [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim[:1]]
