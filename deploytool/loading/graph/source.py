"""The module of a given graph, and the graph that it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from deploytool.data import pixel_inputs
from deploytool.loading.graph import adapter, definition, interpreter, pixels, preparation, structure, widening
from deploytool.loading.graph.interpreter import GraphModule
from deploytool.rewrites.graph import storage, weights
from deploytool.spec import Model


def graph(model: Model, *, exact: bool = False) -> onnx.ModelProto:
    """The graph in the file of `model` with the inputs and outputs of the model; big weights stay in its side files.

    FP16 and, except with `exact`, FP64 are replaced by FP32, functions by their nodes, and pixels are normalised.
    Raises BadInput if the file has changed so that it is no valid graph any more, and StageFailed if a function cannot
    be inlined.
    """
    path = Path(model.factory)
    loaded = storage.load(path)
    structure.check(loaded, str(path))
    if loaded.functions:
        loaded = preparation.inlined(loaded)  # the stages after this one read and convert plain graphs
        structure.check(loaded, str(path))
    if model.given is not None and model.given.half:
        loaded = weights.inlined(loaded)
        widening.to_single(loaded, widening.HALF)
    if model.given is not None and model.given.double and not exact:
        loaded = weights.inlined(loaded)
        widening.to_single(loaded, widening.DOUBLE)
    adapter.adapt(loaded, pixel_inputs.original(model), definition.output_names(model))
    pixels.take(loaded, model)
    return loaded


def module(model: Model) -> GraphModule:
    """A module that computes the graph in the file of `model`; raises StageFailed for a node that it cannot compute."""
    return interpreter.GraphModule(graph(model))


def exact_state(model: Model) -> dict[str, Any]:
    """The state dict of the module with FP64 weights as the file has them."""
    return dict(interpreter.GraphModule(graph(model, exact=True)).state_dict())
