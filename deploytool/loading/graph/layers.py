"""The convolutions and matrix products of a given graph with their sizes, without running it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from deploytool import serde
from deploytool.errors import BadInput, StageFailed
from deploytool.host import exception_text, scratch, workers
from deploytool.host.process import run_limited
from deploytool.spec import Model

_WORKER = "deploytool.loading.graph.layers_worker"
_SECONDS = 120.0
_MAX_RESULT_BYTES = 1 << 26


@dataclass(frozen=True)
class Layer:
    """One node with constant weights: the shape of its output for one case, which is empty if it cannot be inferred."""

    name: str
    operator: str
    output: tuple[int, ...]
    weight: tuple[int, ...]
    groups: int
    parameters: int
    macs: int


def find(model: Model) -> tuple[Layer, ...]:
    """The layers of a given graph in its order, for a batch of 1; dynamic sizes count as 1.

    Raises BadInput if the shapes cannot be inferred.
    """
    assert model.given is not None
    sizes: dict[str, list[int]] = {}
    for place, tensor in zip(model.given.inputs, model.inputs, strict=True):
        rest = [size if isinstance(size, int) else 1 for size in tensor.shape[1:]]
        axis = place.batch_axis
        sizes[place.name] = rest if axis is None else [*rest[:axis], 1, *rest[axis:]]
    with scratch.folder() as folder:
        result = folder / "layers.json"
        try:
            run_limited(
                workers.command(_WORKER),
                what="the shape inference of onnx",
                seconds=_SECONDS,
                gibibytes=workers.MEMORY_GIB,
                max_file_bytes=_MAX_RESULT_BYTES,
                task=[str(Path(model.factory).resolve()), sizes, str(result)],
            )
        except StageFailed as error:
            problem = f"the layers of {model.factory} cannot be listed: {exception_text.one_line(error)}"
            raise BadInput(problem, "check that the file is complete, and its inputs: --input") from error
        layers = json.loads(result.read_text(encoding="utf-8"))
    names = Layer.__dataclass_fields__
    return tuple(serde.decode(Layer, dict(zip(names, layer, strict=True))) for layer in layers)
