from __future__ import annotations

import pytest

from tests.rewrites.builder import GraphBuilder, assert_exact, assert_skipped, op_types

NAME = "add_instead_of_concat"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_concat_of_a_convolution_and_a_pool(groups: int, first: bool) -> None:
    net = GraphBuilder(12)
    conv = net.conv("image", 20, groups=groups)
    pool = net.op("AveragePool", "image", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    joined = net.concat(conv, pool) if first else net.concat(pool, conv)
    after = assert_exact(net.model(net.op("Relu", joined)), NAME, 1)
    assert sorted(op_types(after)) == ["Add", "AveragePool", "Conv", "Conv", "Relu"]


def test_reasons_to_skip() -> None:
    net = GraphBuilder(12)
    assert_skipped(net.model(net.conv("image", 8)), NAME, "no Concat joins channels")
    net = GraphBuilder(16)
    assert_skipped(net.model(net.concat(net.conv("image", 16), "image")), NAME, "gain nothing in blocks of 16")
    net = GraphBuilder(12)
    assert_skipped(net.model(net.concat(net.conv("image", 8), "image")), NAME, "gain nothing in blocks of 16")
    net = GraphBuilder(12)
    assert_skipped(
        net.model(net.concat("image", net.op("Relu", "image"))), NAME, "of which a pointwise convolution produces one"
    )


def test_a_depthwise_convolution_stays_depthwise() -> None:
    net = GraphBuilder(12)
    after = assert_exact(net.model(net.concat(net.depthwise("image"), net.conv("image", 20))), NAME, 1)
    assert [12, 1, 3, 3] in [list(weight.dims) for weight in after.graph.initializer]
    net = GraphBuilder(8)
    mixed = net.concat(*(net.depthwise(part, 3) for part in net.split("image", [4, 4])))
    assert_skipped(net.model(mixed), NAME, "of which a pointwise convolution produces one")
