"""Compares every tensor of a graph with a reference: its module, its error, and the noise floor there.

The references are the tensors of the source model or of the previous graph. A tensor is compared with

1. the reference of the same name and shape, if there is one: the FP16 converter keeps all names, onnxsim most of them;
2. else the first reference that agrees within the noise and is not matched yet: a convolution with a folded batch norm
   matches the output of the batch norm;
3. else nothing; then it counts as right if any tensor computed from it is right: PyTorch has no tensor for the sigmoid
   inside a SiLU.

The noise of a reference is measured in the source model; a tensor without one has the noise of its sources.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deploytool.blame.ort_trace import TracedTensor
from deploytool.blame.reference_tensor import ReferenceTensor, relative_error
from deploytool.exporters.name_scopes import module_path
from deploytool.results.blame import Layer

Matches = Mapping[str, ReferenceTensor]


@dataclass(frozen=True)
class GraphErrors:
    """The layers of a graph in topological order, and its tensors as references for the next graph.

    `first_wrong` is the first layer beyond the noise floor, `worst_input` the layer with the largest error that it is
    computed from. `lost_module` is the module of a tensor that it is computed from in the previous graph and that this
    graph does not have. `matches` holds the reference of each tensor, where one is known, and `wrong` the tensors
    beyond the noise floor.
    """

    layers: tuple[Layer, ...]
    references: tuple[ReferenceTensor, ...]
    first_wrong: Layer | None
    worst_input: Layer | None
    lost_module: str | None
    matches: Matches
    wrong: frozenset[str]


def compare_layers(
    tensors: Sequence[TracedTensor], references: Sequence[ReferenceTensor], modules: Collection[str]
) -> GraphErrors:
    """Compares the tensors of a graph with the references."""
    half = any(tensor.values.dtype == np.float16 for tensor in tensors)
    matches = _match(tensors, references, half)
    wrong = _wrong_tensors(tensors, matches, half)
    matches |= _nearest_references(wrong, matches, references, half)
    as_references = _as_references(tensors, matches, references, modules)
    layers: dict[str, Layer] = {}
    for tensor in tensors:
        name, reference, match = tensor.tensor, as_references[tensor.tensor], matches.get(tensor.tensor)
        error = relative_error(tensor.values, match.values) if match else None
        layers[name] = Layer(reference.module, name, tensor.node, tensor.op, error, reference.floor(half=half))
    first = wrong[0] if wrong else None
    inputs = [layers[source] for source in first.sources if source in layers] if first else []
    return GraphErrors(
        layers=tuple(layers.values()),
        references=tuple(as_references[tensor.tensor] for tensor in tensors),
        first_wrong=layers[first.tensor] if first else None,
        worst_input=max(inputs, key=lambda layer: layer.error or 0.0, default=None),
        lost_module=_lost_module(matches.get(first.tensor), tensors, references) if first else None,
        matches=matches,
        wrong=frozenset(tensor.tensor for tensor in wrong),
    )


def _match(
    tensors: Sequence[TracedTensor], references: Sequence[ReferenceTensor], half: bool
) -> dict[str, ReferenceTensor]:
    """The reference of each tensor, by its name or else by its values."""
    named = {reference.tensor: reference for reference in references if reference.tensor}
    matches = {
        tensor.tensor: named[tensor.tensor]
        for tensor in tensors
        if tensor.tensor in named and named[tensor.tensor].values.shape == tensor.values.shape
    }
    unmatched = defaultdict(list)
    for reference in references:
        if reference.tensor not in matches:
            unmatched[reference.values.shape].append(reference)
    for tensor in tensors:
        if tensor.tensor not in matches:
            candidates = unmatched[tensor.values.shape]
            agreeing = (index for index, candidate in enumerate(candidates) if _agrees(tensor, candidate, half))
            if (index := next(agreeing, None)) is not None:
                matches[tensor.tensor] = candidates.pop(index)
    return matches


def _agrees(tensor: TracedTensor, reference: ReferenceTensor, half: bool) -> bool:
    floor = reference.floor(half=half)
    sampled = reference.sampled_error(tensor.values)  # cheap, and rejects most references
    return sampled <= floor and relative_error(tensor.values, reference.values) <= floor


def _wrong_tensors(tensors: Sequence[TracedTensor], matches: Matches, half: bool) -> list[TracedTensor]:
    """The tensors beyond the noise floor, and those without a reference from which no right tensor is computed."""
    right: dict[str, bool] = {}
    consumers: dict[str, list[str]] = defaultdict(list)
    for tensor in reversed(tensors):
        match = matches.get(tensor.tensor)
        if match is not None:
            right[tensor.tensor] = _agrees(tensor, match, half)
        else:
            results = consumers[tensor.tensor]
            right[tensor.tensor] = any(right[result] for result in results) if results else not tensor.last
        for source in tensor.sources:
            consumers[source].append(tensor.tensor)
    return [tensor for tensor in tensors if not right[tensor.tensor]]


def _nearest_references(
    wrong: Sequence[TracedTensor], matches: Matches, references: Sequence[ReferenceTensor], half: bool
) -> dict[str, ReferenceTensor]:
    """The most probable reference of each wrong tensor without a match: the nearest one, unmatched ones first."""
    matched = {id(match) for match in matches.values()}
    nearest: dict[str, ReferenceTensor] = {}
    for tensor in wrong:
        if tensor.tensor in matches:
            continue
        candidates = [reference for reference in references if reference.values.shape == tensor.values.shape]
        candidates.sort(key=lambda reference: (id(reference) in matched, reference.sampled_error(tensor.values)))
        probable = next((reference for reference in candidates if not _agrees(tensor, reference, half)), None)
        if probable is not None:
            nearest[tensor.tensor] = probable
            matched.add(id(probable))
    return nearest


def _as_references(
    tensors: Sequence[TracedTensor],
    matches: Matches,
    references: Sequence[ReferenceTensor],
    modules: Collection[str],
) -> dict[str, ReferenceTensor]:
    """The tensors as references for the next graph; the module comes from the name of the node, else from the match."""
    by_name = {reference.tensor: reference for reference in references if reference.tensor}
    for tensor in tensors:
        match = matches.get(tensor.tensor)
        module = module_path(tensor.node, modules) or (match.module if match else "")
        origins = [match] if match else [by_name[source] for source in tensor.sources if source in by_name]
        noise32 = max((origin.noise32 for origin in origins), default=0.0)
        noise16 = max((origin.noise16 for origin in origins), default=0.0)
        by_name[tensor.tensor] = ReferenceTensor(tensor.tensor, module, tensor.values, noise32, noise16, tensor.sources)
    return by_name


def _lost_module(
    match: ReferenceTensor | None, tensors: Sequence[TracedTensor], references: Sequence[ReferenceTensor]
) -> str | None:
    """The module of a tensor that `match` is computed from and whose name does not exist in this graph."""
    present = {name for tensor in tensors for name in (tensor.tensor, *tensor.sources)}
    sources = match.sources if match else ()
    lost = (each.module for each in references if each.tensor in sources and each.tensor not in present)
    return next(lost, None)
