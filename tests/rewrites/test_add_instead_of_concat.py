from __future__ import annotations

import pytest

from tests.rewrites.drawing import Drawing, kinds, proved, refused

NAME = "add_instead_of_concat"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_beside_a_pool(groups: int, first: bool) -> None:
    net = Drawing(12)
    conv = net.conv("picture", 20, groups=groups)
    pool = net.op("AveragePool", "picture", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    joined = net.concat(conv, pool) if first else net.concat(pool, conv)
    after = proved(net.model(net.op("Relu", joined)), NAME, 1)
    assert sorted(kinds(after)) == ["Add", "AveragePool", "Conv", "Conv", "Relu"]


def test_why_not() -> None:
    net = Drawing(12)
    refused(net.model(net.conv("picture", 8)), NAME, "no Concat joins channels")
    net = Drawing(16)
    refused(net.model(net.concat(net.conv("picture", 16), "picture")), NAME, "gain nothing in blocks of 16")
    net = Drawing(12)
    refused(net.model(net.concat(net.conv("picture", 8), "picture")), NAME, "gain nothing in blocks of 16")
    net = Drawing(12)
    refused(net.model(net.concat("picture", net.op("Relu", "picture"))), NAME, "straight from a pointwise convolution")


def test_a_depthwise_convolution_stays_depthwise() -> None:
    net = Drawing(12)
    after = proved(net.model(net.concat(net.depthwise("picture"), net.conv("picture", 20))), NAME, 1)
    assert [12, 1, 3, 3] in [list(weight.dims) for weight in after.graph.initializer]
    net = Drawing(8)
    mixed = net.concat(*(net.depthwise(part, 3) for part in net.split("picture", [4, 4])))
    refused(net.model(mixed), NAME, "straight from a pointwise convolution")
