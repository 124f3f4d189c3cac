from __future__ import annotations

import pytest

from tests.rewrites.drawing import Drawing, kinds, proved, refused

NAME = "fold_batch_norm"


def test_behind_one_convolution() -> None:
    net = Drawing(6)
    after = proved(net.model(net.norm(net.conv("picture", 8, 3, bias=False))), NAME, 1)
    assert kinds(after) == ["Conv"]


def test_through_a_concat_in_a_concat() -> None:
    net = Drawing(6)
    inner = net.concat(net.conv("picture", 3, 3), net.conv("picture", 5))
    after = proved(net.model(net.norm(net.concat(net.conv("picture", 4, 5, bias=False), inner))), NAME, 3)
    assert sorted(kinds(after)) == ["Concat", "Concat", "Conv", "Conv", "Conv"]


def test_the_result_keeps_its_name_and_what_changed_does_not() -> None:
    net = Drawing(6)
    conv = net.conv("picture", 8)
    norm = net.norm(net.concat(conv, net.conv("picture", 4)))
    after = proved(net.model(net.op("Relu", norm)), NAME, 2)
    made = {name for node in after.graph.node for name in node.output}
    assert norm in made
    assert conv not in made


@pytest.mark.parametrize("seed", range(5))
def test_grouped_and_depthwise(seed: int) -> None:
    net = Drawing(8, seed)
    depthwise = net.op("Relu", net.norm(net.depthwise("picture", 3, stride=2)))
    proved(net.model(net.norm(net.conv(depthwise, 12, groups=4))), NAME, 2)


def test_why_not() -> None:
    net = Drawing(6)
    refused(net.model(net.conv("picture", 8)), NAME, "no batch norm is left")
    net = Drawing(6)
    refused(net.model(net.norm(net.op("Relu", "picture"))), NAME, "it follows Relu, which has no weights to take it")
    net = Drawing(6)
    refused(net.model(net.norm("picture")), NAME, "it follows an input")
    net = Drawing(6)
    conv = net.conv("picture", 8)
    refused(net.model(net.op("Add", net.norm(conv), conv)), NAME, "has other readers too")
    net = Drawing(6)
    refused(net.model(net.norm(net.concat(net.conv("picture", 4), "picture"))), NAME, "it follows an input")
