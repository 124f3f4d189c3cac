"""The three ways with a channel shuffle: absorb it, gather it, densify the convolution after it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.rewrites.drawing import Drawing, kinds, proved, refused

THREE = ("absorb_shuffle", "gather_shuffle", "densify_shuffled")


def unit(groups: tuple[int, int, int], place: str, pool: bool = False, seed: int = 0) -> onnx.ModelProto:
    """Convolution, activation, and a depthwise convolution behind or before the shuffle, to another convolution."""
    first, dealt, last = groups
    net = Drawing(12, seed)
    tensor = net.op("Relu", net.conv(net.conv("picture", 12, 3), 24, groups=first, bias=seed % 2 == 0))
    if place == "after":
        tensor = net.depthwise(tensor, 3)
    tensor = net.shuffle(tensor, dealt)
    if place == "before":
        tensor = net.depthwise(tensor, 3, stride=2)
    if pool:
        tensor = net.op("AveragePool", tensor, kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net.op("Sigmoid", net.conv(tensor, 24, groups=last)))


@pytest.mark.parametrize("place", ["before", "after", "alone"])
@pytest.mark.parametrize("groups", [(2, 2, 2), (3, 3, 3), (4, 6, 2), (2, 4, 3), (12, 3, 4)])
@pytest.mark.parametrize("name", ["gather_shuffle", "densify_shuffled"])
def test_between_grouped_convolutions(name: str, groups: tuple[int, int, int], place: str) -> None:
    after = proved(unit(groups, place), name, 1)
    assert "Transpose" not in kinds(after)
    assert ("Gather" in kinds(after)) == (name == "gather_shuffle")


@pytest.mark.parametrize("place", ["before", "after", "alone"])
@pytest.mark.parametrize("groups", [(1, 3, 3), (3, 3, 1), (1, 4, 1), (1, 2, 4)])
@pytest.mark.parametrize("name", THREE)
def test_beside_an_ungrouped_convolution(name: str, groups: tuple[int, int, int], place: str) -> None:
    after = proved(unit(groups, place, pool=True), name, 1)
    assert "Transpose" not in kinds(after)
    if name == "absorb_shuffle":
        assert not {"Gather", "Reshape", "Concat"} & set(kinds(after))


@pytest.mark.parametrize("seed", range(4))
def test_two_units_that_share_a_convolution(seed: int) -> None:
    net = Drawing(12, seed)
    first = net.shuffle(net.op("Relu", net.conv("picture", 12, groups=2)), 3)
    second = net.shuffle(net.conv(first, 18, groups=3), 2)
    last = net.conv(second, 6, groups=2)
    after = proved(net.model(last), "densify_shuffled", 2)
    assert "Transpose" not in kinds(after)


@pytest.mark.parametrize("name", ["gather_shuffle", "densify_shuffled"])
def test_a_shuffle_that_asks_for_its_sizes(name: str) -> None:
    net = Drawing(12)
    shuffled = net.shuffle_by_sizes(net.op("Relu", net.conv("picture", 12, groups=3)), 3)
    last = net.conv(net.depthwise(shuffled), 12, groups=3)
    after = proved(net.model(last), name, 1)
    assert not {"Transpose", "Shape", "Slice"} & set(kinds(after))
    net = Drawing(12)
    shuffled = net.shuffle_by_sizes(net.conv("picture", 12, groups=3), 3)
    sizes = net.op("Shape", net.nodes[0].output[0])
    kept = net.model(net.conv(shuffled, 12, groups=3), net.op("Cast", sizes, to=onnx.TensorProto.DOUBLE))
    if name != "gather_shuffle":
        refused(kept, name, "has other readers too")


def test_a_gather_is_a_shuffle_too() -> None:
    net = Drawing(12)
    conv = net.conv("picture", 12, groups=3)
    order = net.weight(np.random.default_rng(3).permutation(12))
    model = net.model(net.conv(net.op("Gather", conv, order, axis=1), 12, groups=2))
    after = proved(model, "densify_shuffled", 1)
    assert kinds(after) == ["Conv", "Conv"]
    refused(model, "gather_shuffle", "no shuffle of Reshape, Transpose and Reshape is left")


def test_the_shuffled_tensor_keeps_its_name_where_it_keeps_its_values() -> None:
    model = unit((1, 3, 3), "before")
    shuffled = model.graph.node[5].output[0]
    after = proved(model, "absorb_shuffle", 1)
    assert shuffled in {name for node in after.graph.node for name in node.output}


@pytest.mark.parametrize("name", THREE)
def test_why_not(name: str) -> None:
    net = Drawing(12)
    refused(net.model(net.conv("picture", 8)), name, "is left")
    net = Drawing(12)
    turned = net.op(
        "Transpose", net.op("Reshape", "picture", net.weight(np.array([-1, 12, 8, 4, 2]))), perm=[0, 1, 3, 2, 4]
    )
    refused(net.model(net.op("Reshape", turned, net.weight(np.array([-1, 12, 8, 8])))), name, "is left")


@pytest.mark.parametrize("name", ["absorb_shuffle", "densify_shuffled"])
def test_why_a_shuffle_has_to_stay(name: str) -> None:
    net = Drawing(12)
    conv = net.conv("picture", 12, groups=3)
    refused(net.model(net.conv(net.shuffle(conv, 3), 12, groups=3), conv), name, "has other readers too")
    net = Drawing(12)
    shuffled = net.shuffle(net.conv("picture", 12, groups=3), 3)
    refused(net.model(net.op("Softmax", shuffled, axis=1)), name, "it does not lie between two convolutions")


def test_a_shuffle_between_grouped_convolutions_is_not_free() -> None:
    refused(unit((3, 3, 3), "before"), "absorb_shuffle", "the convolutions at both ends are grouped")
