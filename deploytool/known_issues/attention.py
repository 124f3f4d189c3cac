"""Finds scaled dot-product attention in a graph, and queries and keys with rotary position embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploytool.known_issues import dataflow
from deploytool.known_issues.dataflow import LAYOUT, Producers

if TYPE_CHECKING:
    import onnx

_LAST_AXES = {-1, 2, 3}  # of scores (heads, queries, keys), with or without a batch before
_SCORE_OPERATORS = {"Add", "Cast", "Div", "Identity", "Max", "Min", "Mul", "Sub", "Where"}  # scale, mask and bias
_PROBABILITY_OPERATORS = {"Cast", "Dropout", "Identity", "IsNaN", "Mul", "Where"}
_SCALED_LAYOUT = LAYOUT - {"Concat"} | {"Div", "Mul"}


@dataclass(frozen=True)
class Attention:
    """softmax(query · keys) · values; the names are those of tensors, `keys` is transposed already.

    `output` is projected, with its heads joined.
    """

    query: str
    keys: str
    values: str
    output: str
    nodes: tuple[str, str, str]  # the names of the product of query and keys, the softmax and the product with values


def find(graph: onnx.GraphProto, produced: Producers) -> Iterator[Attention]:
    """Every attention in the graph, in graph order: its products are MatMul nodes with two computed operands."""
    readers = dataflow.consumers(graph)
    for softmax in graph.node:
        if softmax.op_type == "Softmax" and _axis(softmax) in _LAST_AXES:
            scores, product = _scores(softmax, produced), _product(softmax, produced, readers)
            if scores is not None and product is not None:
                names = (scores.name, softmax.name, product.name)
                output = dataflow.settled(product.output[0], produced, readers)
                yield Attention(scores.input[0], scores.input[1], product.input[1], output, names)


def _axis(softmax: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in softmax.attribute if attribute.name == "axis"), -1)


def _scores(softmax: onnx.NodeProto, produced: Producers) -> onnx.NodeProto | None:
    ends = dataflow.trace(softmax.input[0], produced, _SCORE_OPERATORS).ends
    return next((node for node in ends if _is_product(node, produced)), None)


def _product(
    softmax: onnx.NodeProto, produced: Producers, readers: Mapping[str, list[onnx.NodeProto]]
) -> onnx.NodeProto | None:
    """The product of the probabilities and the values."""
    pending = list(softmax.output)
    while pending:
        name = pending.pop()
        for node in readers.get(name, ()):
            if _is_product(node, produced) and node.input[0] == name:
                return node
            if node.op_type in _PROBABILITY_OPERATORS:
                pending += node.output
    return None


def _is_product(node: onnx.NodeProto, produced: Producers) -> bool:
    return node.op_type == "MatMul" and all(name in produced for name in node.input)


def is_rotated(tensor: str, produced: Producers) -> bool:
    """Whether a query or key is rotated for every token: x · cos + rotated(x) · sin, or the same in pairs."""
    trace = dataflow.trace(tensor, produced, _SCALED_LAYOUT)
    return trace.only_end is not None and _is_rotation(trace.only_end, produced)


def is_rotated_after_prefix(tensor: str, produced: Producers) -> bool:
    """Whether a query or key is a Concat of tokens that are not rotated, such as a class token, and rotated ones."""
    node = dataflow.trace(tensor, produced, _SCALED_LAYOUT).only_end
    if node is None or node.op_type != "Concat" or len(node.input) != 2:
        return False
    prefix = produced.get(node.input[0])
    return prefix is not None and prefix.op_type in {"Slice", "Split"} and is_rotated(node.input[1], produced)


def _is_rotation(node: onnx.NodeProto, produced: Producers) -> bool:
    if node.op_type == "Add":
        terms = [produced.get(name) for name in node.input]
        return all(term is not None and term.op_type == "Mul" for term in terms) and any(
            _is_quarter_turn(name, produced) for term in terms if term is not None for name in term.input
        )
    if node.op_type == "Concat":  # pairs (a · cos - b · sin, a · sin + b · cos)
        parts = [dataflow.trace(name, produced, LAYOUT).only_end for name in node.input]
        return sorted(part.op_type for part in parts if part is not None) == ["Add", "Sub"]
    return False


def _is_quarter_turn(tensor: str, produced: Producers) -> bool:
    """Whether a tensor is (-b, a) of x = (a, b)."""
    node = dataflow.trace(tensor, produced, LAYOUT - {"Concat"}).only_end
    if node is None or node.op_type != "Concat":
        return False
    parts = [dataflow.trace(name, produced, LAYOUT - {"Concat"}) for name in node.input]
    return sum(part.only_end is not None and part.only_end.op_type == "Neg" for part in parts) == 1
