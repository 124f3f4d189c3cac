"""Settles what the options say about a given graph: its batch, its dynamic dimensions, and options without meaning."""

from __future__ import annotations

from dataclasses import replace

from deploytool.errors import BadInput
from deploytool.pipeline import options as checks
from deploytool.pipeline.export_options import ExportOptions
from deploytool.spec import BATCH, GivenGraph, Model, Options, Range


def settle(model: Model, options: ExportOptions) -> Model:
    """The model of a given graph with the batch that the options state.

    Raises BadInput for an option that has no meaning for a graph, a batch size that the file excludes, and dynamic
    dimensions without a size.
    """
    assert model.given is not None
    if options.weights:
        raise BadInput(f"{model.factory} has its own weights, so --weights does not apply", "leave --weights out")
    if options.forward:
        raise BadInput(f"{model.factory} is a graph, whose only arguments are its inputs", "leave --forward out")
    if options.exporter != ExportOptions.exporter:
        raise BadInput(f"{model.factory} is a graph already, so --exporter does not apply", "leave --exporter out")
    batch, fixed = checks.size_range("batch", options.batch), model.given.batch
    if fixed is not None and fixed > 1 and batch == Range(1, 1, 1):
        model = _as_one_case(model, fixed)
    elif fixed is not None and batch not in (Options.batch, Range(fixed, fixed, fixed)):
        problem = f"{model.factory} takes {fixed} at a time, so --batch {batch.smallest} does not apply"
        raise BadInput(problem, "leave --batch out, or export the model with a dynamic batch")
    _check_sizes(model, options)
    return model


def batch_sizes(batch: Range, given: GivenGraph) -> Range:
    """The batch sizes of a given graph: the only one that its file allows, else those of the options."""
    return batch if given.batch is None else Range(given.batch, given.batch, given.batch)


def _as_one_case(model: Model, first: int) -> Model:
    """The model whose fixed first dimension `first` is no batch: all of its inputs are one case."""
    assert model.given is not None
    places = tuple(replace(place, batch_axis=None) for place in model.given.inputs)
    inputs = tuple(replace(tensor, shape=(BATCH, first, *tensor.shape[1:])) for tensor in model.inputs)
    return replace(model, inputs=inputs, given=replace(model.given, inputs=places, batch=1))


def _check_sizes(model: Model, options: ExportOptions) -> None:
    """Raises BadInput, with all of them, for dynamic dimensions without a size."""
    missing: dict[str, list[str]] = {}
    for tensor in model.inputs:
        for side in tensor.shape[1:]:
            if isinstance(side, str) and side not in (options.sizes or {}):
                missing.setdefault(side, []).append(tensor.name)
    if missing:
        listed = ", ".join(f"{side} of {' and '.join(dict.fromkeys(names))}" for side, names in missing.items())
        ranges = " ".join(f"--size {side}=SMALLEST:TYPICAL:LARGEST" for side in missing)
        raise BadInput(f"{model.factory} leaves open how large these are: {listed}", f"give their ranges: {ranges}")
