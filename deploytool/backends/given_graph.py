"""Runs a given ONNX file as it is, with ONNX Runtime: the original that artifacts are compared against in speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from deploytool.backends import onnxruntime
from deploytool.backends.onnxruntime import fingerprint
from deploytool.backends.session import Array, Session, in_batches
from deploytool.host import machine
from deploytool.loading import weights_file
from deploytool.loading.graph import definition, layout
from deploytool.rewrites.graph import storage, sum_scales, weights, zero_points
from deploytool.spec import Model

__all__ = ["fingerprint", "start"]


@contextmanager
def start(path: Path, device: str = "cpu", threads: int = 0) -> Iterator[Session]:
    """Loads the ONNX file that the model of a weights file is; inputs and outputs are those of the model.

    Pixels are normalised once for calls with the same arrays, so that a measured time is that of the file alone.
    """
    model = weights_file.definition(path)
    assert model.given is not None
    names = dict(zip(definition.output_names(model), model.given.outputs, strict=True))
    with _session(Path(model.factory).resolve(), device, threads) as session:
        given = _given_inputs(model)

        def call(**inputs: Array) -> dict[str, Array]:
            results = session(**given(inputs))
            places = {tensor.name: names[tensor.name] for tensor in model.outputs}
            return {name: layout.from_file(place, results[place.name]) for name, place in places.items()}

        yield in_batches(call, model.inputs[0].shape[:1])


def _session(file: Path, device: str, threads: int) -> AbstractContextManager[Session]:
    """Loads the file itself, or the same graph in a form that ONNX Runtime computes as the file says."""
    loaded = storage.load(file)
    stated = sum_scales.dequantised(loaded)
    if machine.saturates_int8():
        stated = zero_points.written(stated)
    if stated is loaded:
        return onnxruntime.start(file, device, threads, batch_first=False)
    parts = weights.session_parts(stated)
    return onnxruntime.start(
        parts.message, device, threads, batch_first=False, weights=parts.arrays, folder=parts.folder
    )


def _given_inputs(model: Model) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """A function that makes the inputs of the file; it keeps those of a model that takes pixels until others come."""
    seen: dict[str, Array] = {}
    made: dict[str, Array] = {}

    def given(inputs: Mapping[str, Array]) -> dict[str, Array]:
        if model.normalisation is None:
            return layout.to_file(model, inputs)
        if seen.keys() != inputs.keys() or any(seen[name] is not array for name, array in inputs.items()):
            made.clear()
            made.update(layout.to_file(model, inputs))
            seen.clear()
            seen.update(inputs)
        return made

    return given
