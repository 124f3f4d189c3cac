from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
import pytest
from onnx import numpy_helper

from tests.rewrites.drawing import Drawing, kinds, proved, refused

NAME = "part_mixed_depthwise"
Act = Callable[[Drawing, str], str]
ALONE = "does not come from an ungrouped convolution alone"


def swish(net: Drawing, source: str) -> str:
    return net.op("Mul", source, net.op("Sigmoid", source))


def relu(net: Drawing, source: str) -> str:
    return net.op("Relu", source)


def mixed(net: Drawing, source: str, sizes: Sequence[int], kernels: Sequence[int], stride: int = 1) -> str:
    """A MixConv on slices of so many channels."""
    slices = zip(net.split(source, sizes), kernels, strict=True)
    return net.concat(*(net.depthwise(part, kernel, stride=stride) for part, kernel in slices))


def depthwise(model: onnx.ModelProto) -> list[list[int]]:
    """How many channels, and how large a kernel, each depthwise convolution of a graph has."""
    shapes = {each.name: numpy_helper.to_array(each).shape for each in model.graph.initializer}
    found = [shapes[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    return [[shape[0], shape[2]] for shape in found if shape[1] == 1]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "act", [relu, swish, lambda net, source: relu(net, swish(net, source)), lambda _, source: source]
)
def test_each_part_has_an_earlier_convolution_of_its_own(act: object, stride: int) -> None:
    assert callable(act)
    net = Drawing(4)
    joined = mixed(net, act(net, net.conv("picture", 64)), [32, 16, 16], [3, 7, 5], stride)
    after = proved(net.model(net.op("Relu", joined)), NAME, 3)
    assert "Split" not in kinds(after)
    assert kinds(after).count("Conv") == 6
    assert depthwise(after) == [[32, 3], [16, 7], [16, 5]]
    assert joined in [name for node in after.graph.node for name in node.output]


@pytest.mark.parametrize(
    ("sizes", "kernels", "parts"),
    [
        ([20, 20, 20], [3, 5, 7], [[16, 3], [16, 5], [28, 7]]),  # channels go to the next part
        ([8, 8, 24], [3, 5, 7], [[16, 5], [24, 7]]),  # slices smaller than a block share one
        ([28, 2, 2], [7, 3, 5], [[16, 7], [16, 7]]),  # two slices and the end of another
        ([17, 16], [5, 3], [[16, 5], [17, 5]]),
    ],
)
def test_parts_begin_at_whole_blocks(sizes: list[int], kernels: list[int], parts: list[list[int]]) -> None:
    net = Drawing(4)
    joined = mixed(net, relu(net, net.conv("picture", sum(sizes), kernel=3)), sizes, kernels)
    assert depthwise(proved(net.model(joined), NAME, len(parts))) == parts


def test_an_activation_at_the_end_of_each_branch_goes_behind() -> None:
    net = Drawing(4)
    slices = zip(net.split(net.conv("picture", 32), [16, 16]), (3, 5), strict=True)
    joined = net.concat(*(relu(net, net.depthwise(part, kernel)) for part, kernel in slices))
    after = proved(net.model(joined), NAME, 2)
    assert kinds(after)[-2:] == ["Concat", "Relu"]
    assert after.graph.node[-1].output[0] == joined


def test_new_nodes_are_called_after_their_modules() -> None:
    net = Drawing(4)
    after = proved(net.model(mixed(net, net.conv("picture", 32), [16, 16], [3, 5])), NAME, 2)
    assert all(node.name.startswith("/net/") for node in after.graph.node)


def test_why_not() -> None:
    net = Drawing(4)
    refused(net.model(net.conv("picture", 8)), NAME, "no Split ends in depthwise convolutions")
    net = Drawing(32)
    refused(net.model(mixed(net, "picture", [16, 16], [3, 5])), NAME, ALONE)
    net = Drawing(4)
    refused(net.model(mixed(net, net.conv("picture", 32, groups=2), [16, 16], [3, 5])), NAME, ALONE)
    net = Drawing(4)
    wide = net.conv("picture", 32)
    refused(net.model(mixed(net, relu(net, wide), [16, 16], [3, 5]), net.op("Tanh", wide)), NAME, ALONE)
    net = Drawing(4)
    wide, gate = net.conv("picture", 32), net.op("Sigmoid", net.conv("picture", 32))
    refused(net.model(mixed(net, net.op("Mul", wide, gate), [16, 16], [3, 5])), NAME, ALONE)
    net = Drawing(4)
    refused(net.model(mixed(net, net.conv("picture", 12), [8, 4], [3, 5])), NAME, "less than two blocks")
    net = Drawing(4)
    first, second = net.split(net.conv("picture", 32), [12, 20])
    shifted = net.depthwise(second, 5, stride=2, pads=(1, 1, 3, 3))
    refused(net.model(net.concat(net.depthwise(first, 3, stride=2), shifted)), NAME, "less than two blocks")
