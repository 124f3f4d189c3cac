from __future__ import annotations

import pytest

from tests.rewrites.drawing import Drawing, kinds, proved, refused

NAME = "merge_mixed_depthwise"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernels", [(3, 5), (7, 3, 5), (1, 3), (3, 5, 7, 9)])
def test_kernels_of_several_sizes(kernels: tuple[int, ...], stride: int) -> None:
    net = Drawing(20)
    sizes = [20 - 4 * (len(kernels) - 1)] + [4] * (len(kernels) - 1)
    parts = [
        net.depthwise(part, kernel, stride=stride, bias=kernel > 3)
        for part, kernel in zip(net.split("picture", sizes), kernels, strict=True)
    ]
    after = proved(net.model(net.op("Relu", net.concat(*parts))), NAME, 1)
    assert kinds(after) == ["Conv", "Relu"]
    assert list(after.graph.initializer[0].dims) == [20, 1, max(kernels), max(kernels)]


def test_padding_at_the_end_and_dilation() -> None:
    net = Drawing(8)
    first, second = net.split("picture", [4, 4])
    parts = (
        net.depthwise(first, 3, stride=2, pads=(0, 0, 1, 1)),
        net.depthwise(second, 5, stride=2, pads=(1, 1, 2, 2)),
    )
    proved(net.model(net.concat(*parts)), NAME, 1)
    net = Drawing(8)
    first, second = net.split("picture", [4, 4])
    proved(net.model(net.concat(net.depthwise(first, 3, dilation=2), net.depthwise(second, 3))), NAME, 1)


def test_an_activation_at_the_end_of_each_branch_goes_behind() -> None:
    net = Drawing(8)
    parts = [
        net.op("Relu", net.depthwise(part, k)) for part, k in zip(net.split("picture", [3, 5]), (3, 5), strict=True)
    ]
    joined = net.concat(*parts)
    after = proved(net.model(joined), NAME, 1)
    assert kinds(after) == ["Conv", "Relu"]
    assert after.graph.node[-1].output[0] == joined


def test_the_new_node_is_called_after_the_module() -> None:
    net = Drawing(8)
    parts = [net.depthwise(part, k) for part, k in zip(net.split("picture", [3, 5]), (3, 5), strict=True)]
    after = proved(net.model(net.concat(*parts)), NAME, 1)
    assert after.graph.node[0].name == "/net/Conv"


def test_why_not() -> None:
    net = Drawing(8)
    refused(net.model(net.conv("picture", 8)), NAME, "no Split ends in depthwise convolutions")
    net = Drawing(8)
    first, second = net.split("picture", [4, 4])
    refused(net.model(net.concat(net.depthwise(second), net.depthwise(first))), NAME, "in their order")
    net = Drawing(8)
    first, second = net.split("picture", [4, 4])
    mixed = net.concat(net.depthwise(first, pads=(2, 2, 0, 0)), net.depthwise(second, 3, pads=(0, 0, 2, 2)))
    proved(net.model(mixed), NAME, 1)  # a window of five, padded by two at the begin and the end
    net = Drawing(8)
    first, second = net.split("picture", [4, 4])
    other = net.op("Relu", net.depthwise(first))
    refused(net.model(net.concat(other, net.depthwise(second, 5))), NAME, "the branches end differently")
    net = Drawing(8)
    first, second = net.split("picture", [4, 4])
    joined = net.concat(net.depthwise(first), net.depthwise(second, 5))
    refused(net.model(joined, net.op("Relu", first)), NAME, "has other readers too")
    net = Drawing(8)
    first, second = net.split("picture", [4, 4])
    joined = net.concat(net.depthwise(first), second, net.depthwise(second))
    refused(net.model(joined), NAME, "a branch is no convolution that only it reads")
