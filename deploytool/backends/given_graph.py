"""Runs a given ONNX file as it is, with ONNX Runtime: the original that artifacts are compared against in speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploytool.backends import onnxruntime
from deploytool.backends.onnxruntime import fingerprint
from deploytool.backends.session import Array, Session, in_batches
from deploytool.loading import weights_file
from deploytool.loading.graph import definition, layout

__all__ = ["fingerprint", "start"]


@contextmanager
def start(path: Path, device: str = "cpu", threads: int = 0) -> Iterator[Session]:
    """Loads the ONNX file that the model of a weights file is; inputs and outputs are those of the model."""
    model = weights_file.definition(path)
    assert model.given is not None
    names = dict(zip(definition.output_names(model), model.given.outputs, strict=True))
    with onnxruntime.start(Path(model.factory).resolve(), device, threads, batch_first=False) as session:

        def call(**inputs: Array) -> dict[str, Array]:
            results = session(**layout.to_file(model, inputs))
            places = {tensor.name: names[tensor.name] for tensor in model.outputs}
            return {name: layout.from_file(place, results[place.name]) for name, place in places.items()}

        yield in_batches(call, model.inputs[0].shape[:1])
