from __future__ import annotations

from typing import Any

import pytest

from deploytool.rewrites import forms
from tests.rewrites.drawing import Drawing, kinds, proved, refused
from tests.rewrites.test_part_channels import weights

NAME = "fill_pooled"
WINDOW: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}


def pooled(net: Drawing, outputs: int = 12) -> str:
    """The stem of a network."""
    return net.op("MaxPool", net.op("Relu", net.conv("picture", outputs, 3)), **WINDOW)


def test_the_stem_of_a_shufflenet() -> None:
    net = Drawing(3)
    stem = pooled(net)
    short = net.op("AveragePool", stem, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    model = net.model(net.concat(net.depthwise(net.conv(stem, 8)), short))
    after = proved(model, NAME, 1)
    assert sorted(weights(after)) == [(8, 1, 3, 3), (8, 16, 1, 1), (12, 16, 1, 1), (16, 3, 3, 3)]
    assert kinds(after).count("AveragePool") == 1
    assert short in {name for node in after.graph.node for name in node.output}, "what is taken out keeps its name"
    assert forms.rewrite(after, [NAME])[0] is after


@pytest.mark.parametrize("groups", [1, 2])
def test_everything_that_may_come_after(groups: int) -> None:
    net = Drawing(3)
    stem = pooled(net)
    ends = [
        net.op("Softmax", net.op("Mul", stem, stem), axis=1),
        net.conv(stem, 8, 3, groups=groups),
        net.op("Relu", stem),
        net.op("Softmax", net.op("Sigmoid", net.depthwise(stem)), axis=1),
        net.conv(net.op("Relu", net.op("MaxPool", stem, kernel_shape=[2, 2])), 5),
    ]
    after = proved(net.model(*ends), NAME, 1)
    assert kinds(after).count("MaxPool") == 2
    assert weights(after)[0] == (16, 3, 3, 3)


def test_why_not() -> None:
    net = Drawing(3)
    refused(net.model(net.conv(pooled(net, 32), 8)), NAME, "fill blocks of 16")
    net = Drawing(3)
    refused(net.model(pooled(net)), NAME, "its result leaves the graph")
    net = Drawing(3)
    refused(net.model(net.conv(net.op("MaxPool", "picture", **WINDOW), 8)), NAME, "from an ungrouped convolution")
    net = Drawing(4)
    halves = net.conv("picture", 12, 3, groups=2)
    refused(net.model(net.conv(net.op("MaxPool", halves, **WINDOW), 8)), NAME, "from an ungrouped convolution")
    net = Drawing(3)
    wide = net.conv("picture", 12, 3)
    refused(net.model(net.conv(net.op("MaxPool", wide, **WINDOW), 8), wide), NAME, "from an ungrouped convolution")
    net = Drawing(3)
    refused(net.model(net.conv("picture", 8)), NAME, "no MaxPool is left")
