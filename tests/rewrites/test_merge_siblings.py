from __future__ import annotations

import pytest

from tests.rewrites.builder import GraphBuilder, assert_exact, assert_skipped, op_types

NAME = "merge_siblings"


@pytest.mark.parametrize("kernels", [(1, 3), (3, 1), (1, 3, 5), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_fire_module(kernels: tuple[int, ...], stride: int) -> None:
    net = GraphBuilder(6)
    squeezed = net.op("Relu", net.conv("image", 4))
    parts = [net.op("Relu", net.conv(squeezed, 5 + kernel, kernel, stride=stride)) for kernel in kernels]
    after = assert_exact(net.model(net.concat(*parts)), NAME, 1)
    assert op_types(after) == ["Conv", "Relu", "Conv", "Relu"]


def test_reasons_to_skip() -> None:
    net = GraphBuilder(6)
    assert_skipped(net.model(net.conv("image", 8)), NAME, "no Concat joins convolutions of one tensor")
    net = GraphBuilder(6)
    parts = (net.conv("image", 6, groups=2), net.conv("image", 6, 3, groups=2))
    assert_skipped(net.model(net.concat(*parts)), NAME, "the convolutions are grouped")
    net = GraphBuilder(6)
    deeper = net.conv(net.conv("image", 4), 4, 3)
    assert_skipped(net.model(net.concat(net.conv("image", 6), deeper)), NAME, "the branches have different sources")
    net = GraphBuilder(6)
    shrunk = net.conv("image", 4, 3, pads=(1, 1, 1, 1))
    same = net.conv("image", 4, 2, stride=1, pads=(0, 0, 1, 1), dilation=1)
    assert_exact(net.model(net.concat(shrunk, same)), NAME, 1)
    net = GraphBuilder(6)
    shrunk = net.conv("image", 4, 3, stride=2, pads=(1, 1, 1, 1))
    smaller = net.conv("image", 4, 2, stride=2, pads=(0, 0, 0, 0))
    assert_skipped(net.model(net.concat(shrunk, smaller)), NAME, "the paddings lead to outputs of different sizes")
