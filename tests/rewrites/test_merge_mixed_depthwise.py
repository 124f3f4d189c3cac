from __future__ import annotations

import pytest

from tests.rewrites.builder import GraphBuilder, assert_exact, assert_skipped, op_types

NAME = "merge_mixed_depthwise"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernels", [(3, 5), (7, 3, 5), (1, 3), (3, 5, 7, 9)])
def test_kernels_of_several_sizes(kernels: tuple[int, ...], stride: int) -> None:
    net = GraphBuilder(20)
    sizes = [20 - 4 * (len(kernels) - 1)] + [4] * (len(kernels) - 1)
    parts = [
        net.depthwise(part, kernel, stride=stride, bias=kernel > 3)
        for part, kernel in zip(net.split("image", sizes), kernels, strict=True)
    ]
    after = assert_exact(net.model(net.op("Relu", net.concat(*parts))), NAME, 1)
    assert op_types(after) == ["Conv", "Relu"]
    assert list(after.graph.initializer[0].dims) == [20, 1, max(kernels), max(kernels)]


def test_asymmetric_padding_and_dilation() -> None:
    net = GraphBuilder(8)
    first, second = net.split("image", [4, 4])
    parts = (
        net.depthwise(first, 3, stride=2, pads=(0, 0, 1, 1)),
        net.depthwise(second, 5, stride=2, pads=(1, 1, 2, 2)),
    )
    assert_exact(net.model(net.concat(*parts)), NAME, 1)
    net = GraphBuilder(8)
    first, second = net.split("image", [4, 4])
    assert_exact(net.model(net.concat(net.depthwise(first, 3, dilation=2), net.depthwise(second, 3))), NAME, 1)


def test_a_common_activation_is_applied_once_after_the_merge() -> None:
    net = GraphBuilder(8)
    parts = [net.op("Relu", net.depthwise(part, k)) for part, k in zip(net.split("image", [3, 5]), (3, 5), strict=True)]
    joined = net.concat(*parts)
    after = assert_exact(net.model(joined), NAME, 1)
    assert op_types(after) == ["Conv", "Relu"]
    assert after.graph.node[-1].output[0] == joined


def test_the_new_node_is_named_after_the_module() -> None:
    net = GraphBuilder(8)
    parts = [net.depthwise(part, k) for part, k in zip(net.split("image", [3, 5]), (3, 5), strict=True)]
    after = assert_exact(net.model(net.concat(*parts)), NAME, 1)
    assert after.graph.node[0].name == "/net/Conv"


def test_reasons_to_skip() -> None:
    net = GraphBuilder(8)
    assert_skipped(net.model(net.conv("image", 8)), NAME, "no Split ends in depthwise convolutions")
    net = GraphBuilder(8)
    first, second = net.split("image", [4, 4])
    assert_skipped(net.model(net.concat(net.depthwise(second), net.depthwise(first))), NAME, "in order")
    net = GraphBuilder(8)
    first, second = net.split("image", [4, 4])
    mixed = net.concat(net.depthwise(first, pads=(2, 2, 0, 0)), net.depthwise(second, 3, pads=(0, 0, 2, 2)))
    assert_exact(net.model(mixed), NAME, 1)  # a window of size five with padding of two at both ends
    net = GraphBuilder(8)
    first, second = net.split("image", [4, 4])
    activated = net.op("Relu", net.depthwise(first))
    assert_skipped(
        net.model(net.concat(activated, net.depthwise(second, 5))), NAME, "the branches end in different nodes"
    )
    net = GraphBuilder(8)
    first, second = net.split("image", [4, 4])
    joined = net.concat(net.depthwise(first), net.depthwise(second, 5))
    assert_skipped(net.model(joined, net.op("Relu", first)), NAME, "has other consumers")
    net = GraphBuilder(8)
    first, second = net.split("image", [4, 4])
    joined = net.concat(net.depthwise(first), second, net.depthwise(second))
    assert_skipped(net.model(joined), NAME, "a branch is not a convolution without other consumers")
