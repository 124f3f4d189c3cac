from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from deploytool.blame.match_by_name import matching_call
from deploytool.blame.reference_tensor import ReferenceTensor
from deploytool.results.blame import Layer

CALLS = ("", "net.conv", "net.bn", "net.relu", "net.shuffle", "net.shuffle", "net.silu", "other.conv", "other.conv")


def known(*modules: str) -> list[ReferenceTensor]:
    return [ReferenceTensor("", module, np.full(1, at), 0.0, 0.0) for at, module in enumerate(modules)]


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
        ("net/silu/Mul", NODES, 6),  # what is in another module is not folded in
        ("Add", NODES, None),
        ("elsewhere/Conv", ("elsewhere/Conv",), None),
    ],
)
def test_a_nodes_name_tells_the_call(node: str, nodes: Sequence[str], call: int | None) -> None:
    graph = layers(*nodes)
    layer = next(each for each in graph if each.tensor == node)
    found = matching_call(layer, graph, known(*CALLS))
    assert (None if found is None else int(found.values[0])) == call


def test_what_is_known_by_a_tensors_name_is_no_call() -> None:
    (layer,) = graph = layers("net/conv/Conv")
    assert matching_call(layer, graph, [ReferenceTensor("image", "net.conv", np.zeros(1), 0.0, 0.0)]) is None
