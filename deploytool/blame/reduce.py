"""Reduces a mismatch to the fewest nodes of a graph that still show it, for one golden case.

What is compared depends on what is wrong:

1. a layer: its node, with the inputs that it has in the wrong graph, against the reference of its output (the same
   tensor of the previous graph, or the FP64 result of the source module);
2. no layer, but ONNX Runtime's optimisation changes the outputs: the nodes that are needed for that, against the same
   nodes without optimisation;
3. neither, so that noise exceeds the tolerance: the nodes that are needed for that, with the references as inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from deploytool.blame import ort_trace, subgraph
from deploytool.blame.locate import Divergence
from deploytool.blame.match_by_name import matching_call
from deploytool.blame.reference_tensor import ReferenceTensor, relative_error
from deploytool.blame.subgraph import Array, EvaluatedGraph, Nodes, Subgraph
from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.results.blame import Layer

_UNOPTIMISED = "the same graph with ONNX Runtime's optimisation switched off"


@dataclass(frozen=True)
class Mismatch:
    """A graph with its inputs, the expected and the actual value of its only output, and the tolerance.

    `error` and `tolerance` are relative to the largest expected value; `origin` describes where `expected` comes from.
    """

    subgraph: Subgraph
    tensor: str
    expected: Array
    actual: Array
    error: float
    tolerance: float
    origin: str


@dataclass(frozen=True)
class _Candidate:
    """A tensor to reduce: its expected value, the tolerance, and the tensors that a subgraph may take as inputs."""

    whole: EvaluatedGraph
    tensor: str
    expected: Array
    tolerance: float
    available: Arrays
    origin: str

    def mismatch(self, nodes: Nodes) -> Mismatch | None:
        """The mismatch, if these nodes show it."""
        part = subgraph.extract(self.whole, nodes, self.tensor, self.available)
        if part is None:
            return None
        try:
            (actual,) = ort_trace.run_outputs(part.model, [self.tensor], part.inputs, optimised=True)
        except StageFailed:  # a subgraph that does not run shows no mismatch
            return None
        if actual.shape != self.expected.shape:
            return None
        error = relative_error(actual, self.expected)
        if error <= self.tolerance:
            return None
        return Mismatch(part, self.tensor, self.expected, actual, error, self.tolerance, self.origin)

    def wrong_subgraph(self, nodes: Nodes) -> Subgraph | None:
        """The subgraph of these nodes, if they show the mismatch."""
        mismatch = self.mismatch(nodes)
        return mismatch.subgraph if mismatch else None


@np.errstate(invalid="ignore", over="ignore")  # an infinite value is a mismatch, not a warning
def reduce(divergence: Divergence) -> Mismatch | None:
    """The smallest mismatch, for a single case if possible; None if no part of the graph shows it by itself."""
    cases = len(next(iter(divergence.inputs.values())))
    for rows in (*(slice(case, case + 1) for case in range(cases)), slice(None)):
        inputs = {name: array[rows] for name, array in divergence.inputs.items()}
        whole = subgraph.evaluate(divergence.graph, inputs)
        for candidate in _candidates(divergence, whole, rows):
            smallest = subgraph.minimize(whole.nodes, candidate.wrong_subgraph)
            if smallest is not None:
                return candidate.mismatch(smallest.nodes)
    return None


def _candidates(divergence: Divergence, whole: EvaluatedGraph, rows: slice) -> Iterator[_Candidate]:
    if divergence.errors.first_wrong is not None:
        return _layer_candidates(divergence, whole, rows)
    return chain(_optimiser_candidates(divergence, whole), _noise_candidates(divergence, whole, rows))


def _layer_candidates(divergence: Divergence, whole: EvaluatedGraph, rows: slice) -> Iterator[_Candidate]:
    """The wrong tensors in topological order, those with a certain reference first; inputs must be right tensors."""
    matches, wrong = divergence.errors.matches, divergence.errors.wrong
    right = {name: whole.values[name] for name in matches if name not in wrong and name in whole.values}
    layers = [layer for layer in divergence.errors.layers if layer.tensor in wrong]
    certain = [(layer, match) for layer in layers if (match := _reference_by_name(divergence, layer)) is not None]
    nearest = [(layer, matches[layer.tensor]) for layer in layers if layer.tensor in matches]
    for layer, reference in (*certain, *nearest):
        floor = reference.floor(half=whole.values[layer.tensor].dtype == np.float16)
        tolerance, available = max(floor, layer.noise_floor), {**right, **whole.fixed}
        origin = _origin(divergence, reference)
        yield _Candidate(whole, layer.tensor, reference.values[rows], tolerance, available, origin)


def _reference_by_name(divergence: Divergence, layer: Layer) -> ReferenceTensor | None:
    """The reference of a tensor by its own name in the previous graph, or by its node's name in the source model."""
    match = divergence.errors.matches.get(layer.tensor)
    if match is not None and match.tensor == layer.tensor:
        return match
    return matching_call(layer, divergence.errors.layers, divergence.references)


def _optimiser_candidates(divergence: Divergence, whole: EvaluatedGraph) -> Iterator[_Candidate]:
    """The tensors that optimisation changes, if it changes an output; any tensor may be an input."""
    names = [name for node in whole.nodes for name in node.output if name in whole.floats]
    candidates = [
        _Candidate(whole, name, whole.values[name], divergence.tolerance, whole.values, _UNOPTIMISED) for name in names
    ]
    if any(candidate.mismatch(whole.nodes) for candidate in candidates if candidate.tensor in whole.outputs):
        yield from (candidate for candidate in candidates if candidate.mismatch(whole.nodes))


def _noise_candidates(divergence: Divergence, whole: EvaluatedGraph, rows: slice) -> Iterator[_Candidate]:
    """The outputs, with references as inputs instead of the values that the graph itself computes."""
    references = {name: match.values[rows] for name, match in divergence.errors.matches.items()}
    right = {name: references[name].astype(value.dtype) for name, value in whole.values.items() if name in references}
    for output in whole.outputs:
        if output in references:
            origin, available = _origin(divergence, divergence.errors.matches[output]), {**right, **whole.fixed}
            yield _Candidate(whole, output, references[output], divergence.tolerance, available, origin)


def _origin(divergence: Divergence, reference: ReferenceTensor) -> str:
    if reference.tensor:
        return f"the tensor {reference.tensor} of the graph of {divergence.reference_stage}"
    return f"what the PyTorch module {reference.module or 'itself'} makes in FP64"
