"""Matching nodes to calls of the source model by their names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from deploytool.blame.match_by_name import matching_call
from deploytool.blame.reference_tensor import ReferenceTensor
from deploytool.results.blame import Layer

CALLS = ("", "net.conv", "net.bn", "net.relu", "net.shuffle", "net.shuffle", "net.silu", "other.conv", "other.conv")


def references(*modules: str) -> list[ReferenceTensor]:
    return [ReferenceTensor("", module, np.full(1, index), 0.0, 0.0) for index, module in enumerate(modules)]


def layers(*nodes: str) -> list[Layer]:
    return [Layer("", node, f"/{node}", "Op", None, 0.0) for node in nodes]


NODES = ("net/conv/Conv", "net/relu/Relu", "net/shuffle/A", "net/shuffle/B", "net/silu/Sigmoid", "net/silu/Mul", "Add")


@pytest.mark.parametrize(
    ("node", "nodes", "call"),
    [
        ("net/conv/Conv", NODES, 2),  # the batch norm is folded in
        ("net/conv/Conv", ("net/conv/Conv", "net/bn/Norm", "net/relu/Relu"), 1),
        ("net/relu/Relu", NODES, 3),
        ("net/shuffle/A", NODES, 4),
        ("net/shuffle/B", NODES, 5),
        ("net/silu/Sigmoid", NODES, None),  # PyTorch has no tensor for it
        ("net/silu/Mul", NODES, 6),  # a node of another parent module is not folded into it
        ("Add", NODES, None),
        ("elsewhere/Conv", ("elsewhere/Conv",), None),
    ],
)
def test_a_node_is_matched_to_a_call_by_its_name(node: str, nodes: Sequence[str], call: int | None) -> None:
    graph = layers(*nodes)
    layer = next(layer for layer in graph if layer.tensor == node)
    match = matching_call(layer, graph, references(*CALLS))
    assert (None if match is None else int(match.values[0])) == call


def test_a_reference_with_a_tensor_name_is_not_a_call() -> None:
    (layer,) = graph = layers("net/conv/Conv")
    assert matching_call(layer, graph, [ReferenceTensor("image", "net.conv", np.zeros(1), 0.0, 0.0)]) is None
