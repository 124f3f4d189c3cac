from __future__ import annotations

from typing import Any

import pytest

from deploytool.rewrites import forms
from tests.rewrites.builder import GraphBuilder, assert_exact, assert_skipped, op_types
from tests.rewrites.test_part_channels import weight_shapes

NAME = "fill_pooled"
WINDOW: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}


def stem(net: GraphBuilder, channels: int = 12) -> str:
    """The stem of a network: convolution, activation and max pooling."""
    return net.op("MaxPool", net.op("Relu", net.conv("image", channels, 3)), **WINDOW)


def test_the_stem_of_a_shufflenet() -> None:
    net = GraphBuilder(3)
    pooled = stem(net)
    short = net.op("AveragePool", pooled, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    model = net.model(net.concat(net.depthwise(net.conv(pooled, 8)), short))
    after = assert_exact(model, NAME, 1)
    assert sorted(weight_shapes(after)) == [(8, 1, 3, 3), (8, 16, 1, 1), (12, 16, 1, 1), (16, 3, 3, 3)]
    assert op_types(after).count("AveragePool") == 1
    assert short in {name for node in after.graph.node for name in node.output}, "equal values keep their tensor name"
    assert forms.rewrite(after, [NAME])[0] is after


@pytest.mark.parametrize("groups", [1, 2])
def test_every_kind_of_consumer(groups: int) -> None:
    net = GraphBuilder(3)
    pooled = stem(net)
    outputs = [
        net.op("Softmax", net.op("Mul", pooled, pooled), axis=1),
        net.conv(pooled, 8, 3, groups=groups),
        net.op("Relu", pooled),
        net.op("Softmax", net.op("Sigmoid", net.depthwise(pooled)), axis=1),
        net.conv(net.op("Relu", net.op("MaxPool", pooled, kernel_shape=[2, 2])), 5),
    ]
    after = assert_exact(net.model(*outputs), NAME, 1)
    assert op_types(after).count("MaxPool") == 2
    assert weight_shapes(after)[0] == (16, 3, 3, 3)


def test_reasons_to_skip() -> None:
    net = GraphBuilder(3)
    assert_skipped(net.model(net.conv(stem(net, 32), 8)), NAME, "fill blocks of 16")
    net = GraphBuilder(3)
    assert_skipped(net.model(stem(net)), NAME, "its result is an output of the graph")
    net = GraphBuilder(3)
    assert_skipped(net.model(net.conv(net.op("MaxPool", "image", **WINDOW), 8)), NAME, "from an ungrouped convolution")
    net = GraphBuilder(4)
    grouped = net.conv("image", 12, 3, groups=2)
    assert_skipped(net.model(net.conv(net.op("MaxPool", grouped, **WINDOW), 8)), NAME, "from an ungrouped convolution")
    net = GraphBuilder(3)
    wide = net.conv("image", 12, 3)
    assert_skipped(
        net.model(net.conv(net.op("MaxPool", wide, **WINDOW), 8), wide), NAME, "from an ungrouped convolution"
    )
    net = GraphBuilder(3)
    assert_skipped(net.model(net.conv("image", 8)), NAME, "no MaxPool is left")
