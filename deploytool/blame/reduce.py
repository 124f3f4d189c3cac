"""Makes a mismatch small: the fewest nodes of a strayed graph that still show it, on one golden case.

What is shown depends on what strayed:

1. a layer: its node is cut out, fed with what it is fed in the strayed graph, and held against what is known of it,
   the same tensor of the graph before or the FP64 value of the source module;
2. no layer, but the graph gives other answers once ONNX Runtime has optimised it: the nodes it takes for that, held
   against the same nodes with nothing optimised;
3. neither: noise beyond the tolerance. The nodes it takes for that, fed with what is known of their inputs.
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

_PLAIN = "the same graph with ONNX Runtime's optimisation switched off"


@dataclass(frozen=True)
class Mismatch:
    """A graph with its inputs, what its one output should be and is, and how far apart they may be.

    `error` and `tolerated` are relative to the largest expected value; `origin` says where `expected` comes from.
    """

    excerpt: Subgraph
    tensor: str
    expected: Array
    got: Array
    error: float
    tolerated: float
    origin: str


@dataclass(frozen=True)
class _Question:
    """Whether some nodes make one tensor otherwise than expected, when they are fed with some of what is `given`."""

    whole: EvaluatedGraph
    tensor: str
    expected: Array
    tolerated: float
    given: Arrays
    origin: str

    def shown(self, nodes: Nodes) -> Mismatch | None:
        """The mismatch, if these nodes show it."""
        found = subgraph.extract(self.whole, nodes, self.tensor, self.given)
        if found is None:
            return None
        try:
            (got,) = ort_trace.run_outputs(found.model, [self.tensor], found.inputs, optimised=True)
        except StageFailed:  # an excerpt that does not run shows nothing
            return None
        if got.shape != self.expected.shape:
            return None
        apart = relative_error(got, self.expected)
        if apart <= self.tolerated:
            return None
        return Mismatch(found, self.tensor, self.expected, got, apart, self.tolerated, self.origin)

    def kept(self, nodes: Nodes) -> Subgraph | None:
        """The excerpt of these nodes, if they show the mismatch."""
        found = self.shown(nodes)
        return found.excerpt if found else None


@np.errstate(invalid="ignore", over="ignore")  # an infinite value is a mismatch, not a warning
def reduce(clue: Divergence) -> Mismatch | None:
    """The smallest mismatch, on one case if one shows it; None if no part of the graph shows it by itself."""
    cases = len(next(iter(clue.inputs.values())))
    for few in (*(slice(case, case + 1) for case in range(cases)), slice(None)):
        whole = subgraph.evaluate(clue.graph, {name: array[few] for name, array in clue.inputs.items()})
        for question in _questions(clue, whole, few):
            found = subgraph.minimize(whole.nodes, question.kept)
            if found is not None:
                return question.shown(found.nodes)
    return None


def _questions(clue: Divergence, whole: EvaluatedGraph, few: slice) -> Iterator[_Question]:
    if clue.drawn.strayed is not None:
        return _of_a_layer(clue, whole, few)
    return chain(_of_the_optimiser(clue, whole), _of_noise(clue, whole, few))


def _of_a_layer(clue: Divergence, whole: EvaluatedGraph, few: slice) -> Iterator[_Question]:
    """The wrong tensors in their order, but first those that are sure to be known; only what is right may be fed."""
    matched, wrong = clue.drawn.matched, clue.drawn.wrong
    given = {name: whole.values[name] for name in matched if name not in wrong and name in whole.values}
    strayed = [layer for layer in clue.drawn.layers if layer.tensor in wrong]
    sure = [(layer, found) for layer in strayed if (found := _named(clue, layer)) is not None]
    nearest = [(layer, matched[layer.tensor]) for layer in strayed if layer.tensor in matched]
    for layer, found in (*sure, *nearest):
        floor = found.floor(half=whole.values[layer.tensor].dtype == np.float16)
        allowed, fed = max(floor, layer.noise_floor), {**given, **whole.fixed}
        yield _Question(whole, layer.tensor, found.values[few], allowed, fed, _origin(clue, found))


def _named(clue: Divergence, layer: Layer) -> ReferenceTensor | None:
    """What a tensor should be, by its own name in the graph before or by its node's in the source model."""
    match = clue.drawn.matched.get(layer.tensor)
    return (
        match
        if match is not None and match.tensor == layer.tensor
        else matching_call(layer, clue.drawn.layers, clue.known)
    )


def _of_the_optimiser(clue: Divergence, whole: EvaluatedGraph) -> Iterator[_Question]:
    """The first tensor that comes out otherwise once what makes it is optimised; anything may be fed."""
    made = [name for node in whole.nodes for name in node.output if name in whole.floats]
    asked = [_Question(whole, name, whole.values[name], clue.tolerated, whole.values, _PLAIN) for name in made]
    if any(question.shown(whole.nodes) for question in asked if question.tensor in whole.outputs):
        yield from (question for question in asked if question.shown(whole.nodes))


def _of_noise(clue: Divergence, whole: EvaluatedGraph, few: slice) -> Iterator[_Question]:
    """The outputs, fed with what is known to be right and not with what the graph itself makes of its inputs."""
    known = {name: match.values[few] for name, match in clue.drawn.matched.items()}
    right = {name: known[name].astype(value.dtype) for name, value in whole.values.items() if name in known}
    for output in whole.outputs:
        if output in known:
            origin = _origin(clue, clue.drawn.matched[output])
            yield _Question(whole, output, known[output], clue.tolerated, {**right, **whole.fixed}, origin)


def _origin(clue: Divergence, known: ReferenceTensor) -> str:
    if known.tensor:
        return f"the tensor {known.tensor} of the graph of {clue.before}"
    return f"what the PyTorch module {known.module or 'itself'} makes in FP64"
