from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploytool.rewrites import forms
from deploytool.rewrites.graph import channel_partition
from deploytool.rewrites.graph.convolution import Convolution, crop
from tests.rewrites.builder import GraphBuilder, assert_exact, assert_skipped, op_types

NAME = "part_channels"
MERGED = ("densify_split_pointwise", "merge_mixed_depthwise")
NOT_PARTITIONED = "no channels can be partitioned"


def swish(net: GraphBuilder, source: str) -> str:
    return net.op("Mul", source, net.op("Sigmoid", source))


def split_pointwise(net: GraphBuilder, source: str, outputs: int) -> str:
    """Two pointwise convolutions, each on half of the channels."""
    width = net.channels[source] // 2
    return net.concat(*(net.conv(part, outputs // 2) for part in net.split(source, [width, width])))


def mix_conv(net: GraphBuilder, source: str, sizes: Sequence[int], kernels: Sequence[int], stride: int = 1) -> str:
    """A MixConv on slices of these sizes."""
    slices = zip(net.split(source, sizes), kernels, strict=True)
    return net.concat(*(net.depthwise(part, kernel, stride=stride) for part, kernel in slices))


def squeeze_excite(net: GraphBuilder, source: str) -> str:
    """Squeeze-and-excitation."""
    count = net.channels[source]
    squeezed = swish(net, net.conv(net.op("GlobalAveragePool", source), 4))
    return net.op("Mul", source, net.op("Sigmoid", net.conv(squeezed, count)))


def mixnet_block(net: GraphBuilder, source: str) -> str:
    """A block of a MixNet: 32 channels, expanded to 64."""
    expanded = mix_conv(net, swish(net, split_pointwise(net, source, 64)), [16, 16, 16, 16], [3, 5, 7, 3])
    return net.op("Add", split_pointwise(net, squeeze_excite(net, swish(net, expanded)), 32), source)


def merged_model(net: GraphBuilder, *results: str) -> onnx.ModelProto:
    """The graph after the rewrites that merge split convolutions."""
    return forms.rewrite(net.model(*results), MERGED)[0]


def weight_shapes(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    """The weight shapes of all convolutions, in graph order."""
    shapes = {weight.name: numpy_helper.to_array(weight).shape for weight in model.graph.initializer}
    return [shapes[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]


def depthwise_sizes(model: onnx.ModelProto) -> list[list[int]]:
    """The number of channels and the kernel size of each depthwise convolution."""
    return [[shape[0], shape[2]] for shape in weight_shapes(model) if shape[1] == 1]


def mix_conv_model(sizes: Sequence[int], kernels: Sequence[int]) -> onnx.ModelProto:
    """A MixConv between two pointwise convolutions."""
    net = GraphBuilder(4)
    mixed = mix_conv(net, net.op("Relu", net.conv("image", sum(sizes))), sizes, kernels)
    return merged_model(net, net.conv(net.op("Relu", mixed), 4))


def test_mixnet_blocks_are_partitioned() -> None:
    net = GraphBuilder(4)
    stem = net.conv("image", 32, 3)
    model = merged_model(net, net.conv(mixnet_block(net, mixnet_block(net, stem)), 8))
    after = assert_exact(model, NAME, 2 + 2 * 8)
    assert sorted(depthwise_sizes(after)) == [[16, 3]] * 4 + [[16, 5]] * 2 + [[16, 7]] * 2
    pointwise = [shape for shape in weight_shapes(after) if shape[1] > 4 and shape[0] > 8]
    halves, gates, squeezed = [(16, 16, 1, 1)] * 16, [(16, 16, 1, 1)] * 8, [(16, 64, 1, 1)] * 2
    assert sorted(pointwise) == [*halves, *gates, *squeezed], "each half is a separate convolution"
    assert op_types(after).count("Concat") == 2, "only the inputs of the squeeze convolutions are concatenated"
    assert forms.rewrite(after, [NAME])[0] is after


def test_an_add_becomes_the_first_term_of_the_sum() -> None:
    net = GraphBuilder(4)
    stem = net.conv("image", 32, 3)
    mixed = mix_conv(net, swish(net, net.conv(stem, 32)), [16, 16], [3, 5])
    result = net.op("Add", net.conv(mixed, 32), stem)
    after = assert_exact(merged_model(net, net.conv(net.op("Relu", result), 4)), NAME, 4)
    producers = {tensor: node for node in after.graph.node for tensor in node.output}
    adds = [node for node in after.graph.node if node.op_type == "Add"]
    assert len(adds) == 2
    assert all("Conv" in {producers[tensor].op_type for tensor in node.input} for node in adds)
    assert result in producers, "tensors that are not partitioned keep their names"


@pytest.mark.parametrize(
    ("sizes", "kernels", "parts"),
    [
        ([32, 16, 16], [3, 7, 5], [[32, 3], [16, 7], [16, 5]]),
        ([20, 20, 20], [3, 5, 7], [[16, 3], [16, 5], [32, 7]]),  # channels at the border join the larger window
        ([20, 28], [7, 3], [[32, 7], [16, 3]]),
        ([8, 8, 24], [3, 5, 7], [[16, 5], [32, 7]]),  # slices smaller than a block share a part
        ([17, 16], [3, 5], [[16, 3], [32, 5]]),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_cuts_between_windows_are_at_whole_blocks(
    sizes: list[int], kernels: list[int], parts: list[list[int]], stride: int
) -> None:
    net = GraphBuilder(4)
    mixed = mix_conv(net, net.op("Relu", net.conv("image", sum(sizes))), sizes, kernels, stride)
    after = assert_exact(merged_model(net, net.conv(net.op("Relu", mixed), 4)), NAME, 2 + len(parts))
    assert depthwise_sizes(after) == parts


def test_halves_are_padded_only_if_that_needs_little_padding() -> None:
    net = GraphBuilder(4)
    split = split_pointwise(net, net.op("Relu", net.conv("image", 28)), 56)
    after = assert_exact(merged_model(net, net.conv(net.op("Relu", split), 4)), NAME, 3)
    assert weight_shapes(after) == [(16, 4, 1, 1)] * 2 + [(32, 16, 1, 1)] * 2 + [(4, 32, 1, 1)] * 2
    net = GraphBuilder(4)
    split = split_pointwise(net, net.op("Relu", net.conv("image", 16)), 64)
    assert_skipped(merged_model(net, net.conv(net.op("Relu", split), 4)), NAME, NOT_PARTITIONED)


def test_parts_larger_than_the_cache_are_cut_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_partition, "_CACHED", 8 * 8 * 32)
    assert depthwise_sizes(assert_exact(mix_conv_model([80, 16], [3, 5]), NAME, 6)) == [
        [32, 3],
        [32, 3],
        [16, 3],
        [16, 5],
    ]


def test_without_other_cuts_only_large_depthwise_convolutions_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = GraphBuilder(4)
    model = merged_model(net, net.conv(net.conv(net.conv("image", 64), 64, 3, groups=64), 4))
    assert_skipped(model, NAME, NOT_PARTITIONED)
    monkeypatch.setattr(channel_partition, "_LARGE", 8 * 8 * 32)
    assert depthwise_sizes(assert_exact(model, NAME, 4)) == [[32, 3], [32, 3]]
    net = GraphBuilder(4)
    assert_skipped(merged_model(net, net.conv(net.op("Relu", net.conv("image", 64)), 4)), NAME, NOT_PARTITIONED)


def test_parts_are_concatenated_before_a_convolution_with_more_outputs() -> None:
    net = GraphBuilder(4)
    mixed = net.op("Relu", mix_conv(net, net.conv("image", 32), [16, 16], [3, 5]))
    after = assert_exact(merged_model(net, net.conv(mixed, 48)), NAME, 4)
    assert op_types(after).count("Concat") == 1
    assert weight_shapes(after)[-1] == (48, 32, 1, 1)


def test_channels_with_other_consumers_are_not_partitioned() -> None:
    for consumer in ("Softmax", "Flatten"):
        net = GraphBuilder(4)
        expanded = net.conv("image", 32)
        mixed = mix_conv(net, expanded, [16, 16], [3, 5])
        assert_skipped(merged_model(net, net.conv(mixed, 4), net.op(consumer, expanded, axis=1)), NAME, NOT_PARTITIONED)
    net = GraphBuilder(4)
    mixed = mix_conv(net, net.conv("image", 32), [16, 16], [3, 5])
    assert_skipped(merged_model(net, net.conv(mixed, 4), mixed), NAME, NOT_PARTITIONED)
    net = GraphBuilder(4)
    mixed = mix_conv(net, net.conv("image", 32, groups=2), [16, 16], [3, 5])
    assert_skipped(merged_model(net, net.conv(mixed, 4)), NAME, NOT_PARTITIONED)
    net = GraphBuilder(4)
    scaled = net.op("Mul", net.conv("image", 32), net.weight(np.full((1, 32, 1, 1), 2.0)))
    assert_skipped(merged_model(net, net.conv(mix_conv(net, scaled, [16, 16], [3, 5]), 4)), NAME, NOT_PARTITIONED)
    assert_skipped(
        merged_model(net := GraphBuilder(4), net.conv(net.depthwise(net.conv("image", 32)), 4)), NAME, NOT_PARTITIONED
    )


def test_new_nodes_are_named_after_their_modules() -> None:
    after = assert_exact(mix_conv_model([16, 16], [3, 5]), NAME, 4)
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
    weight = np.array([[float(digit) for digit in row] for row in rows])[:, :, None, None]
    assert channel_partition.diagonal_blocks(weight) == blocks


@pytest.mark.parametrize(
    ("pads", "dilation", "kernel", "cropped_pads"),
    [((2, 2, 2, 2), 1, 3, (1, 1, 1, 1)), ((0, 0, 0, 0), 1, 5, (0, 0, 0, 0)), ((4, 5, 4, 5), 2, 3, (2, 3, 2, 3))],
)
def test_a_window_is_cropped_as_far_as_its_padding_goes(
    pads: tuple[int, int, int, int], dilation: int, kernel: int, cropped_pads: tuple[int, int, int, int]
) -> None:
    weight = np.pad(np.ones((4, 1, 3, 3)), ((0, 0), (0, 0), (1, 1), (1, 1)))
    conv = Convolution(onnx.NodeProto(), weight, np.zeros(4), 4, pads=pads, dilations=(dilation, dilation))
    assert crop(conv).kernel == (kernel, kernel)
    assert crop(conv).pads == cropped_pads
