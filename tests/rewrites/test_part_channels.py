from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploytool.rewrites import forms
from deploytool.rewrites.graph import channel_partition
from deploytool.rewrites.graph.convolution import Convolution, cropped
from tests.rewrites.drawing import Drawing, kinds, proved, refused

NAME = "part_channels"
MERGED = ("densify_split_pointwise", "merge_mixed_depthwise")
WHOLE = "no channels fall into parts"


def swish(net: Drawing, source: str) -> str:
    return net.op("Mul", source, net.op("Sigmoid", source))


def split(net: Drawing, source: str, outputs: int) -> str:
    """Two pointwise convolutions, each on its half."""
    half = net.channels[source] // 2
    return net.concat(*(net.conv(part, outputs // 2) for part in net.split(source, [half, half])))


def mixed(net: Drawing, source: str, sizes: Sequence[int], kernels: Sequence[int], stride: int = 1) -> str:
    """A MixConv on slices of so many channels."""
    slices = zip(net.split(source, sizes), kernels, strict=True)
    return net.concat(*(net.depthwise(part, kernel, stride=stride) for part, kernel in slices))


def gated(net: Drawing, source: str) -> str:
    """Squeeze and excite."""
    count = net.channels[source]
    small = swish(net, net.conv(net.op("GlobalAveragePool", source), 4))
    return net.op("Mul", source, net.op("Sigmoid", net.conv(small, count)))


def unit(net: Drawing, source: str) -> str:
    """A block of a MixNet: 32 channels, inside 64."""
    inside = mixed(net, swish(net, split(net, source, 64)), [16, 16, 16, 16], [3, 5, 7, 3])
    return net.op("Add", split(net, gated(net, swish(net, inside)), 32), source)


def merged(net: Drawing, *results: str) -> onnx.ModelProto:
    """The graph with its splits merged."""
    return forms.rewrite(net.model(*results), MERGED)[0]


def weights(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    """The shapes of the weights of all convolutions, in order."""
    shapes = {each.name: numpy_helper.to_array(each).shape for each in model.graph.initializer}
    return [shapes[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]


def depthwise(model: onnx.ModelProto) -> list[list[int]]:
    """How many channels, and how large a kernel, each depthwise convolution of a graph has."""
    return [[shape[0], shape[2]] for shape in weights(model) if shape[1] == 1]


def between(sizes: Sequence[int], kernels: Sequence[int]) -> onnx.ModelProto:
    """A MixConv between two pointwise convolutions."""
    net = Drawing(4)
    inside = mixed(net, net.op("Relu", net.conv("picture", sum(sizes))), sizes, kernels)
    return merged(net, net.conv(net.op("Relu", inside), 4))


def test_blocks_of_a_mixnet_are_kept_apart() -> None:
    net = Drawing(4)
    stem = net.conv("picture", 32, 3)
    model = merged(net, net.conv(unit(net, unit(net, stem)), 8))
    after = proved(model, NAME, 2 + 2 * 8)
    assert sorted(depthwise(after)) == [[16, 3]] * 4 + [[16, 5]] * 2 + [[16, 7]] * 2
    pointwise = [shape for shape in weights(after) if shape[1] > 4 and shape[0] > 8]
    halves, gates, means = [(16, 16, 1, 1)] * 16, [(16, 16, 1, 1)] * 8, [(16, 64, 1, 1)] * 2
    assert sorted(pointwise) == [*halves, *gates, *means], "every half by itself, and only with its own"
    assert kinds(after).count("Concat") == 2, "of the means alone"
    assert forms.rewrite(after, [NAME])[0] is after


def test_an_add_is_the_first_of_what_is_summed_up() -> None:
    net = Drawing(4)
    stem = net.conv("picture", 32, 3)
    inside = mixed(net, swish(net, net.conv(stem, 32)), [16, 16], [3, 5])
    end = net.op("Add", net.conv(inside, 32), stem)
    after = proved(merged(net, net.conv(net.op("Relu", end), 4)), NAME, 4)
    made = {tensor: node for node in after.graph.node for tensor in node.output}
    adds = [node for node in after.graph.node if node.op_type == "Add"]
    assert len(adds) == 2
    assert all("Conv" in {made[tensor].op_type for tensor in node.input} for node in adds)
    assert end in made, "what is not parted keeps its name"


@pytest.mark.parametrize(
    ("sizes", "kernels", "parts"),
    [
        ([32, 16, 16], [3, 7, 5], [[32, 3], [16, 7], [16, 5]]),
        ([20, 20, 20], [3, 5, 7], [[16, 3], [16, 5], [32, 7]]),  # channels go to the larger window
        ([20, 28], [7, 3], [[32, 7], [16, 3]]),
        ([8, 8, 24], [3, 5, 7], [[16, 5], [32, 7]]),  # slices smaller than a block share one
        ([17, 16], [3, 5], [[16, 3], [32, 5]]),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_windows_change_at_whole_blocks(
    sizes: list[int], kernels: list[int], parts: list[list[int]], stride: int
) -> None:
    net = Drawing(4)
    inside = mixed(net, net.op("Relu", net.conv("picture", sum(sizes))), sizes, kernels, stride)
    after = proved(merged(net, net.conv(net.op("Relu", inside), 4)), NAME, 2 + len(parts))
    assert depthwise(after) == parts


def test_halves_are_filled_up_if_that_is_little() -> None:
    net = Drawing(4)
    inside = split(net, net.op("Relu", net.conv("picture", 28)), 56)
    after = proved(merged(net, net.conv(net.op("Relu", inside), 4)), NAME, 3)
    assert weights(after) == [(16, 4, 1, 1)] * 2 + [(32, 16, 1, 1)] * 2 + [(4, 32, 1, 1)] * 2
    net = Drawing(4)
    inside = split(net, net.op("Relu", net.conv("picture", 16)), 64)
    refused(merged(net, net.conv(net.op("Relu", inside), 4)), NAME, WHOLE)


def test_what_does_not_stay_near_is_cut_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_partition, "_NEAR", 8 * 8 * 32)
    assert depthwise(proved(between([80, 16], [3, 5]), NAME, 6)) == [[32, 3], [32, 3], [16, 3], [16, 5]]


def test_where_nothing_else_is_cut_only_the_largest_of_depthwise_convolutions_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Drawing(4)
    model = merged(net, net.conv(net.conv(net.conv("picture", 64), 64, 3, groups=64), 4))
    refused(model, NAME, WHOLE)
    monkeypatch.setattr(channel_partition, "_LARGE", 8 * 8 * 32)
    assert depthwise(proved(model, NAME, 4)) == [[32, 3], [32, 3]]
    net = Drawing(4)
    refused(merged(net, net.conv(net.op("Relu", net.conv("picture", 64)), 4)), NAME, WHOLE)


def test_parts_are_laid_together_for_what_makes_more_of_them() -> None:
    net = Drawing(4)
    inside = net.op("Relu", mixed(net, net.conv("picture", 32), [16, 16], [3, 5]))
    after = proved(merged(net, net.conv(inside, 48)), NAME, 4)
    assert kinds(after).count("Concat") == 1
    assert weights(after)[-1] == (48, 32, 1, 1)


def test_what_others_read_stays_as_it_is() -> None:
    for end in ("Softmax", "Flatten"):
        net = Drawing(4)
        wide = net.conv("picture", 32)
        inside = mixed(net, wide, [16, 16], [3, 5])
        refused(merged(net, net.conv(inside, 4), net.op(end, wide, axis=1)), NAME, WHOLE)
    net = Drawing(4)
    inside = mixed(net, net.conv("picture", 32), [16, 16], [3, 5])
    refused(merged(net, net.conv(inside, 4), inside), NAME, WHOLE)
    net = Drawing(4)
    inside = mixed(net, net.conv("picture", 32, groups=2), [16, 16], [3, 5])
    refused(merged(net, net.conv(inside, 4)), NAME, WHOLE)
    net = Drawing(4)
    scaled = net.op("Mul", net.conv("picture", 32), net.weight(np.full((1, 32, 1, 1), 2.0)))
    refused(merged(net, net.conv(mixed(net, scaled, [16, 16], [3, 5]), 4)), NAME, WHOLE)
    refused(merged(net := Drawing(4), net.conv(net.depthwise(net.conv("picture", 32)), 4)), NAME, WHOLE)


def test_new_nodes_are_called_after_their_modules() -> None:
    after = proved(between([16, 16], [3, 5]), NAME, 4)
    assert all(node.name.startswith("/net/") for node in after.graph.node)


@pytest.mark.parametrize(
    ("rows", "blocks"),
    [
        (["110", "001"], ([1], [2])),
        (["10", "00", "01"], ([2], [1])),
        (["1000", "0001", "0000"], ([1], [3])),
        (["11", "01"], ([], [])),
        (["01", "10"], ([], [])),
    ],
)
def test_blocks_on_the_diagonal(rows: list[str], blocks: tuple[list[int], list[int]]) -> None:
    weight = np.array([[float(each) for each in row] for row in rows])[:, :, None, None]
    assert channel_partition.diagonal(weight) == blocks


@pytest.mark.parametrize(
    ("pads", "dilation", "kernel", "left"),
    [((2, 2, 2, 2), 1, 3, (1, 1, 1, 1)), ((0, 0, 0, 0), 1, 5, (0, 0, 0, 0)), ((4, 5, 4, 5), 2, 3, (2, 3, 2, 3))],
)
def test_a_window_is_cropped_as_far_as_its_padding_goes(
    pads: tuple[int, int, int, int], dilation: int, kernel: int, left: tuple[int, int, int, int]
) -> None:
    weight = np.pad(np.ones((4, 1, 3, 3)), ((0, 0), (0, 0), (1, 1), (1, 1)))
    conv = Convolution(onnx.NodeProto(), weight, np.zeros(4), 4, pads=pads, dilations=(dilation, dilation))
    assert cropped(conv).kernel == (kernel, kernel)
    assert cropped(conv).pads == left
