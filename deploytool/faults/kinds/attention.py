"""Finds attention in a graph: queries times keys, then scale and mask, softmax, and the product with the values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deploytool.faults.kinds.graph import FaultGraph

HIDDEN = -50.0  # a smaller addend hides a key: its share of the softmax vanishes
_PRODUCTS = ("MatMul", "Einsum")
_BEFORE = ("Add", "Sub", "Mul", "Div", "Where", "Cast", "Clip", "Max", "Identity", "Dropout", "Reshape", "Tanh")
_AFTER = ("Cast", "Identity", "Dropout", "Where", "Mul", "Reshape")
_MASK_DEPTH, _PATH_DEPTH = 12, 12  # nodes, so that no search runs through the whole graph


@dataclass(frozen=True)
class Step:
    """A node between the scores and the softmax: its output, and which of its inputs has the scores."""

    output: str
    source: str


@dataclass(frozen=True)
class Attention:
    """One attention, by its tensors; `steps` lead from the softmax back to the scores.

    `width` is that of a head, `heads` the number of heads on the third last axis; 0 where unknown.
    """

    scores: str
    softmax: str
    mixed: str
    steps: tuple[Step, ...]
    width: int
    heads: int


@dataclass(frozen=True)
class Mask:
    """A step that hides keys; `added` is the mask that it adds to the scores, "" if it selects scores or a fill."""

    step: Step
    added: str


def find(graph: FaultGraph) -> list[Attention]:
    """Every attention of the graph, in graph order."""
    found = []
    for softmax in graph.nodes("Softmax"):
        path, mixed = _path(graph, softmax.input[0], _PATH_DEPTH), _mixed(graph, softmax.output[0])
        if path is None or not mixed:
            continue
        scores, steps = path
        width = _width(graph, scores, mixed)
        shape = graph.shapes.get(mixed, [])
        found.append(Attention(scores, softmax.output[0], mixed, steps, width, shape[-3] if len(shape) == 4 else 0))
    return found


def _width(graph: FaultGraph, scores: str, mixed: str) -> int:
    """The width of a head: the last side of the queries, the second last of the keys, or the last of the values."""
    product = graph.producer(scores)
    assert product is not None
    queries, keys = (graph.shapes.get(name, []) for name in product.input[:2])
    values = graph.shapes.get(mixed, [])
    known = [*queries[-1:], *keys[-2:-1], *values[-1:]]
    return next((side for side in known if side), 0)


def _path(graph: FaultGraph, tensor: str, depth: int) -> tuple[str, tuple[Step, ...]] | None:
    """The product that a softmax reads, and the steps back to it."""
    node = graph.producer(tensor)
    if node is None or not depth:
        return None
    if node.op_type in _PRODUCTS:
        both_vary = len(node.input) > 1 and not any(graph.has_weight(name) for name in node.input)
        return (tensor, ()) if both_vary else None
    if node.op_type in _BEFORE:
        for source in node.input:
            if (rest := _path(graph, source, depth - 1)) is not None:
                return rest[0], (Step(tensor, source), *rest[1])
    return None


def _mixed(graph: FaultGraph, tensor: str, depth: int = 4) -> str:
    """The product of the softmax with the values; "" if there is none."""
    for node in graph.consumers(tensor):
        if node.op_type in _PRODUCTS:
            return str(node.output[0])
        if depth and node.op_type in _AFTER and (found := _mixed(graph, node.output[0], depth - 1)):
            return found
    return ""


def masks(graph: FaultGraph) -> list[Mask]:
    """Every step of every attention that hides keys: an addition of a mask, or a choice between scores and a fill."""
    found = []
    for step in (step for attention in find(graph) for step in attention.steps):
        node = graph.producer(step.output)
        assert node is not None
        hiding = [name for name in node.input if name != step.source and _hides(graph, name, _MASK_DEPTH)]
        if node.op_type in ("Add", "Where") and hiding:
            found.append(Mask(step, hiding[0] if node.op_type == "Add" else ""))
    return found


def _hides(graph: FaultGraph, tensor: str, depth: int) -> bool:
    """Whether a tensor is computed from a constant that hides keys."""
    if graph.has_weight(tensor):
        values = graph.weight(tensor)
        return values.dtype.kind == "f" and bool((values <= HIDDEN).any())
    node = graph.producer(tensor)
    if node is None or not depth or node.op_type in (*_PRODUCTS, "Gemm", "Conv", "Softmax"):
        return False
    return any(_hides(graph, name, depth - 1) for name in node.input)


def biased_steps(graph: FaultGraph, attention: Attention) -> Iterator[tuple[Step, str]]:
    """The steps that add a constant for each pair of tokens that hides none, each with its constant."""
    for step in attention.steps:
        node = graph.producer(step.output)
        assert node is not None
        for name in node.input:
            if node.op_type == "Add" and graph.has_weight(name) and graph.weight(name).ndim > 1:
                values = graph.weight(name)
                if values.shape[-1] > 1 and not (values <= HIDDEN).any():
                    yield step, name


def score_steps(graph: FaultGraph) -> set[str]:
    """The outputs of all steps of all attentions: additions there are no table of positions."""
    return {step.output for attention in find(graph) for step in attention.steps}
