"""The rewrites of a channel shuffle: absorb it, delay it, gather it, densify the convolution after it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.rewrites.builder import GraphBuilder, assert_exact, assert_skipped, op_types

SHUFFLE_REWRITES = ("absorb_shuffle", "gather_shuffle", "densify_shuffled")
ALL = (*SHUFFLE_REWRITES, "delay_shuffle")


def shuffle_model(groups: tuple[int, int, int], depthwise: str, pool: bool = False, seed: int = 0) -> onnx.ModelProto:
    """A shuffle between two convolutions, with a depthwise convolution before it, after it or nowhere (`depthwise`)."""
    first, shuffled, last = groups
    net = GraphBuilder(12, seed)
    tensor = net.op("Relu", net.conv(net.conv("image", 12, 3), 24, groups=first, bias=seed % 2 == 0))
    if depthwise == "before":
        tensor = net.depthwise(tensor, 3)
    tensor = net.shuffle(tensor, shuffled)
    if depthwise == "after":
        tensor = net.depthwise(tensor, 3, stride=2)
    if pool:
        tensor = net.op("AveragePool", tensor, kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net.op("Sigmoid", net.conv(tensor, 24, groups=last)))


@pytest.mark.parametrize("depthwise", ["after", "before", "nowhere"])
@pytest.mark.parametrize("groups", [(2, 2, 2), (3, 3, 3), (4, 6, 2), (2, 4, 3), (12, 3, 4)])
@pytest.mark.parametrize("name", ["gather_shuffle", "densify_shuffled"])
def test_between_grouped_convolutions(name: str, groups: tuple[int, int, int], depthwise: str) -> None:
    after = assert_exact(shuffle_model(groups, depthwise), name, 1)
    assert "Transpose" not in op_types(after)
    assert ("Gather" in op_types(after)) == (name == "gather_shuffle")


@pytest.mark.parametrize("depthwise", ["after", "before", "nowhere"])
@pytest.mark.parametrize("groups", [(1, 3, 3), (3, 3, 1), (1, 4, 1), (1, 2, 4)])
@pytest.mark.parametrize("name", SHUFFLE_REWRITES)
def test_next_to_an_ungrouped_convolution(name: str, groups: tuple[int, int, int], depthwise: str) -> None:
    after = assert_exact(shuffle_model(groups, depthwise, pool=True), name, 1)
    assert "Transpose" not in op_types(after)
    if name == "absorb_shuffle":
        assert not {"Gather", "Reshape", "Concat"} & set(op_types(after))


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("groups", [(2, 2, 2), (3, 3, 3), (4, 6, 2), (2, 4, 3), (1, 3, 3)])
@pytest.mark.parametrize("gathered", [False, True])
def test_behind_the_layers_that_make_its_tensor_smaller(
    gathered: bool, groups: tuple[int, int, int], pool: bool
) -> None:
    model = shuffle_model(groups, "after", pool=pool)
    if gathered:
        model = assert_exact(model, "gather_shuffle", 1)
    kinds = op_types(assert_exact(model, "delay_shuffle", 1))
    smaller = kinds.index("AveragePool") if pool else [i for i, kind in enumerate(kinds) if kind == "Conv"][2]
    assert kinds[smaller + 1 :][:3] == (
        ["Gather", "Conv", "Sigmoid"] if gathered else ["Reshape", "Transpose", "Reshape"]
    )


@pytest.mark.parametrize("depthwise", ["before", "nowhere"])
def test_a_shuffle_before_no_smaller_tensor_stays(depthwise: str) -> None:
    assert_skipped(shuffle_model((3, 3, 3), depthwise), "delay_shuffle", "no layer behind it has fewer positions")


@pytest.mark.parametrize("seed", range(4))
def test_two_units_that_share_a_convolution(seed: int) -> None:
    net = GraphBuilder(12, seed)
    first = net.shuffle(net.op("Relu", net.conv("image", 12, groups=2)), 3)
    second = net.shuffle(net.conv(first, 18, groups=3), 2)
    last = net.conv(second, 6, groups=2)
    after = assert_exact(net.model(last), "densify_shuffled", 2)
    assert "Transpose" not in op_types(after)


@pytest.mark.parametrize("name", ["gather_shuffle", "densify_shuffled"])
def test_a_shuffle_that_computes_its_shape(name: str) -> None:
    net = GraphBuilder(12)
    shuffled = net.shuffle_by_sizes(net.op("Relu", net.conv("image", 12, groups=3)), 3)
    last = net.conv(net.depthwise(shuffled), 12, groups=3)
    after = assert_exact(net.model(last), name, 1)
    assert not {"Transpose", "Shape", "Slice"} & set(op_types(after))
    net = GraphBuilder(12)
    shuffled = net.shuffle_by_sizes(net.conv("image", 12, groups=3), 3)
    sizes = net.op("Shape", net.nodes[0].output[0])
    shared = net.model(net.conv(shuffled, 12, groups=3), net.op("Cast", sizes, to=onnx.TensorProto.DOUBLE))
    if name != "gather_shuffle":
        assert_skipped(shared, name, "has other consumers")


def test_a_gather_is_a_shuffle_too() -> None:
    net = GraphBuilder(12)
    conv = net.conv("image", 12, groups=3)
    order = net.weight(np.random.default_rng(3).permutation(12))
    model = net.model(net.conv(net.op("Gather", conv, order, axis=1), 12, groups=2))
    after = assert_exact(model, "densify_shuffled", 1)
    assert op_types(after) == ["Conv", "Conv"]
    assert_skipped(model, "gather_shuffle", "no shuffle of Reshape, Transpose and Reshape is left")


def test_a_tensor_with_unchanged_values_keeps_its_name() -> None:
    model = shuffle_model((1, 3, 3), "after")
    shuffled = model.graph.node[5].output[0]
    after = assert_exact(model, "absorb_shuffle", 1)
    assert shuffled in {name for node in after.graph.node for name in node.output}


@pytest.mark.parametrize("name", ALL)
def test_graphs_without_a_shuffle_are_skipped(name: str) -> None:
    net = GraphBuilder(12)
    assert_skipped(net.model(net.conv("image", 8)), name, "is left")
    net = GraphBuilder(12)
    transposed = net.op(
        "Transpose", net.op("Reshape", "image", net.weight(np.array([-1, 12, 8, 4, 2]))), perm=[0, 1, 3, 2, 4]
    )
    assert_skipped(net.model(net.op("Reshape", transposed, net.weight(np.array([-1, 12, 8, 8])))), name, "is left")


@pytest.mark.parametrize("name", ["absorb_shuffle", "delay_shuffle", "densify_shuffled"])
def test_shuffles_outside_a_chain_are_skipped(name: str) -> None:
    net = GraphBuilder(12)
    conv = net.conv("image", 12, groups=3)
    assert_skipped(net.model(net.conv(net.shuffle(conv, 3), 12, groups=3), conv), name, "has other consumers")
    net = GraphBuilder(12)
    shuffled = net.shuffle(net.conv("image", 12, groups=3), 3)
    assert_skipped(net.model(net.op("Softmax", shuffled, axis=1)), name, "it does not lie between two convolutions")


def test_a_shuffle_between_grouped_convolutions_is_not_absorbed() -> None:
    assert_skipped(shuffle_model((3, 3, 3), "after"), "absorb_shuffle", "the convolutions at both ends are grouped")
