from __future__ import annotations

import pytest

from tests.rewrites.drawing import Drawing, kinds, proved, refused

NAME = "merge_siblings"


@pytest.mark.parametrize("kernels", [(1, 3), (3, 1), (1, 3, 5), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_fire_module(kernels: tuple[int, ...], stride: int) -> None:
    net = Drawing(6)
    squeezed = net.op("Relu", net.conv("picture", 4))
    parts = [net.op("Relu", net.conv(squeezed, 5 + kernel, kernel, stride=stride)) for kernel in kernels]
    after = proved(net.model(net.concat(*parts)), NAME, 1)
    assert kinds(after) == ["Conv", "Relu", "Conv", "Relu"]


def test_why_not() -> None:
    net = Drawing(6)
    refused(net.model(net.conv("picture", 8)), NAME, "no Concat joins convolutions of one tensor")
    net = Drawing(6)
    parts = (net.conv("picture", 6, groups=2), net.conv("picture", 6, 3, groups=2))
    refused(net.model(net.concat(*parts)), NAME, "the convolutions are grouped")
    net = Drawing(6)
    deeper = net.conv(net.conv("picture", 4), 4, 3)
    refused(net.model(net.concat(net.conv("picture", 6), deeper)), NAME, "the branches have different sources")
    net = Drawing(6)
    shrunk = net.conv("picture", 4, 3, pads=(1, 1, 1, 1))
    same = net.conv("picture", 4, 2, stride=1, pads=(0, 0, 1, 1), dilation=1)
    proved(net.model(net.concat(shrunk, same)), NAME, 1)
    net = Drawing(6)
    shrunk = net.conv("picture", 4, 3, stride=2, pads=(1, 1, 1, 1))
    smaller = net.conv("picture", 4, 2, stride=2, pads=(0, 0, 0, 0))
    refused(net.model(net.concat(shrunk, smaller)), NAME, "the paddings make results of different sizes")
