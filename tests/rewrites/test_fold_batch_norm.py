from __future__ import annotations

import pytest

from tests.rewrites.builder import GraphBuilder, assert_exact, assert_skipped, op_types

NAME = "fold_batch_norm"


def test_after_one_convolution() -> None:
    net = GraphBuilder(6)
    after = assert_exact(net.model(net.norm(net.conv("image", 8, 3, bias=False))), NAME, 1)
    assert op_types(after) == ["Conv"]


def test_through_nested_concats() -> None:
    net = GraphBuilder(6)
    inner = net.concat(net.conv("image", 3, 3), net.conv("image", 5))
    after = assert_exact(net.model(net.norm(net.concat(net.conv("image", 4, 5, bias=False), inner))), NAME, 3)
    assert sorted(op_types(after)) == ["Concat", "Concat", "Conv", "Conv", "Conv"]


def test_only_tensors_with_changed_values_are_renamed() -> None:
    net = GraphBuilder(6)
    conv = net.conv("image", 8)
    norm = net.norm(net.concat(conv, net.conv("image", 4)))
    after = assert_exact(net.model(net.op("Relu", norm)), NAME, 2)
    produced = {name for node in after.graph.node for name in node.output}
    assert norm in produced
    assert conv not in produced


@pytest.mark.parametrize("seed", range(5))
def test_grouped_and_depthwise_convolutions(seed: int) -> None:
    net = GraphBuilder(8, seed)
    depthwise = net.op("Relu", net.norm(net.depthwise("image", 3, stride=2)))
    assert_exact(net.model(net.norm(net.conv(depthwise, 12, groups=4))), NAME, 2)


def test_reasons_to_skip() -> None:
    net = GraphBuilder(6)
    assert_skipped(net.model(net.conv("image", 8)), NAME, "no batch norm is left")
    net = GraphBuilder(6)
    assert_skipped(
        net.model(net.norm(net.op("Relu", "image"))), NAME, "it follows Relu, which has no weights to fold it into"
    )
    net = GraphBuilder(6)
    assert_skipped(net.model(net.norm("image")), NAME, "it follows an input")
    net = GraphBuilder(6)
    conv = net.conv("image", 8)
    assert_skipped(net.model(net.op("Add", net.norm(conv), conv)), NAME, "has other consumers")
    net = GraphBuilder(6)
    assert_skipped(net.model(net.norm(net.concat(net.conv("image", 4), "image"))), NAME, "it follows an input")
