"""Faults of boxes, in the forms in which detectors decode them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from deploytool.backends.session import Array
from deploytool.faults.kinds.graph import FaultGraph
from tests.faults.kinds.planting import answer, faults_of, graph_of, the_fault

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 3, 3)).astype(np.float32)
ROWS, COLUMNS = np.meshgrid(np.arange(3), np.arange(3), indexing="ij")
GRID = np.stack([COLUMNS, ROWS]) * 8.0 + 4.0
STRIDE = 8.0
SIGNATURE = "(float[N,4,3,3] x) => (float[N,4,3,3] y)"
LAYER = "z = Conv<kernel_shape=[1,1]>(x, one) a, b = Split<axis=1, num_outputs=2>(z) "
DECODE = "s = Sigmoid(a) m = Mul(s, stride) c = Add(m, grid) e = Exp(b) d = Mul(e, stride) "
WEIGHTS = {"one": np.eye(4).reshape(4, 4, 1, 1), "stride": STRIDE, "grid": GRID}


def corners() -> FaultGraph:
    nodes = f"{LAYER} {DECODE} h = Div(d, two) f = Sub(c, h) t = Add(c, h) y = Concat<axis=1>(f, t)"
    return graph_of(SIGNATURE, nodes, {**WEIGHTS, "two": 2.0})


def centres() -> FaultGraph:
    return graph_of(SIGNATURE, f"{LAYER} {DECODE} y = Concat<axis=1>(c, d)", WEIGHTS)


def decode(grid: Array = GRID, stride: float = STRIDE) -> tuple[Array, Array]:
    return 1 / (1 + np.exp(-X[:, :2])) * stride + grid, np.exp(X[:, 2:]) * stride


def joined(first: Array, second: Array) -> Array:
    return np.concatenate([first, second], 1)


def test_corners_become_centres_and_sides() -> None:
    graph, (centre, side) = corners(), decode()
    np.testing.assert_allclose(answer(graph, {"x": X}), joined(centre - side / 2, centre + side / 2), rtol=1e-4)
    got = answer(graph, {"x": X}, the_fault(graph, "boxes_reformatted", "format"))
    np.testing.assert_allclose(got, joined(centre, side), rtol=1e-4)


def test_centres_and_sides_become_corners() -> None:
    graph, (centre, side) = centres(), decode()
    got = answer(graph, {"x": X}, the_fault(graph, "boxes_reformatted", "format"))
    np.testing.assert_allclose(got, joined(centre - side / 2, centre + side / 2), rtol=1e-4)


@pytest.mark.parametrize("make", [corners, centres])
def test_x_and_y_are_swapped(make: Callable[[], FaultGraph]) -> None:
    graph = make()
    got = answer(graph, {"x": X}, the_fault(graph, "boxes_reformatted", "x and y"))
    np.testing.assert_allclose(got, answer(graph, {"x": X})[:, [1, 0, 3, 2]], rtol=1e-6)


def test_an_output_of_four_numbers_is_taken_for_boxes() -> None:
    graph = graph_of("(float[N,6,5] x) => (float[N,6,4] y)", "z = MatMul(x, w) y = Sigmoid(z)", {"w": np.ones((5, 4))})
    x = RNG.standard_normal((2, 6, 5)).astype(np.float32)
    boxes = answer(graph, {"x": x})
    got = answer(graph, {"x": x}, the_fault(graph, "boxes_reformatted", "corners"))
    np.testing.assert_allclose(got[..., :2], boxes[..., :2] - boxes[..., 2:] / 2, rtol=1e-5)
    got = answer(graph, {"x": x}, the_fault(graph, "boxes_reformatted", "x and y"))
    np.testing.assert_allclose(got, boxes[..., [1, 0, 3, 2]], rtol=1e-6)


def test_another_stride_and_another_grid() -> None:
    graph = centres()
    got = answer(graph, {"x": X}, the_fault(graph, "box_constants", "d, doubled"))
    np.testing.assert_allclose(got, joined(decode()[0], 2 * decode()[1]), rtol=1e-4)
    got = answer(graph, {"x": X}, the_fault(graph, "box_constants", "c, shifted"))
    np.testing.assert_allclose(got, joined(*decode(GRID + STRIDE / 2)), rtol=1e-4)
    got = answer(graph, {"x": X}, the_fault(graph, "box_constants", "c, x and y"))
    np.testing.assert_allclose(got, joined(*decode(GRID[::-1])), rtol=1e-4)


def test_anchors_change_places_and_an_offset_is_left_out() -> None:
    anchors = np.array([5.0, 7.0]).reshape(2, 1, 1)
    nodes = f"{LAYER} s = Sigmoid(a) c = Sub(s, half) e = Exp(b) d = Mul(e, anchors) y = Concat<axis=1>(c, d)"
    graph = graph_of(SIGNATURE, nodes, {**WEIGHTS, "half": 0.5, "anchors": anchors})
    centre, side = 1 / (1 + np.exp(-X[:, :2])), np.exp(X[:, 2:])
    got = answer(graph, {"x": X}, the_fault(graph, "box_constants", "d, in another order"))
    np.testing.assert_allclose(got, joined(centre - 0.5, side * anchors[::-1]), rtol=1e-4, atol=1e-6)
    got = answer(graph, {"x": X}, the_fault(graph, "box_constants", "c, left out"))
    np.testing.assert_allclose(got, joined(centre, side * anchors), rtol=1e-4)


def test_a_bias_and_what_a_later_layer_reads_are_no_boxes() -> None:
    last = "p = Concat<axis=1>(c, d) y = Conv<kernel_shape=[1,1]>(p, one)"
    graph = graph_of(SIGNATURE, f"{LAYER} {DECODE} {last}", WEIGHTS)
    assert faults_of(graph, "box_constants") == faults_of(graph, "boxes_reformatted") == []
    bias = graph_of(
        "(float[N,6,5] x) => (float[N,6,4] y)",
        "z = MatMul(x, w) y = Add(z, b)",
        {"w": np.ones((5, 4)), "b": np.ones(4)},
    )
    assert faults_of(bias, "box_constants") == []
