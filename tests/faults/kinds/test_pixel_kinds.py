"""Faults of colours and of the normalisation are planted behind the nodes that normalise pixels."""

from __future__ import annotations

import numpy as np
import pytest

from deploytool.faults.kinds.graph import FaultGraph
from tests.faults.kinds.planting import answer, faults_of, graph_of, the_fault
from tests.pixels import by_channel

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # those of the preprocessing that `graph_of` declares
_SIGNATURE = "(uint8[N,6,5,3] image) => (float[N,3,6,5] y)"
_NODES = """
  f = Cast<to=1>(image)
  t = Transpose<perm=[0,3,1,2]>(f)
  m = Mul(t, scale)
  s = Sub(m, mean)
  d = Div(s, std)
  y = Identity(d)
"""


@pytest.fixture
def graph() -> FaultGraph:
    sides = (1, 3, 1, 1)
    weights = {"scale": 1 / 255, "mean": np.array(MEAN).reshape(sides), "std": np.array(STD).reshape(sides)}
    return graph_of(_SIGNATURE, _NODES, weights)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3)).astype(np.uint8)


def test_the_images_are_the_normalised_ones(graph: FaultGraph) -> None:
    assert graph.images() == ["d"]


def test_colours_are_swapped_after_normalisation(graph: FaultGraph, image: np.ndarray) -> None:
    fault = the_fault(graph, "colours_swapped", "[2, 1, 0]")
    exact = by_channel(image, MEAN, STD, 1 / 255)
    np.testing.assert_allclose(answer(graph, {"image": image}, fault), exact[:, ::-1], atol=1e-6)


def test_another_normalisation_is_planted(graph: FaultGraph, image: np.ndarray) -> None:
    fault = the_fault(graph, "normalisation", "mean [0.5, 0.5, 0.5]")
    expected = by_channel(image, (0.5,) * 3, (0.5,) * 3, 1 / 255)
    np.testing.assert_allclose(answer(graph, {"image": image}, fault), expected, atol=1e-5)
    assert len(faults_of(graph, "normalisation")) == 6


def test_pixels_without_a_cast_have_no_place() -> None:
    graph = graph_of("(uint8[N,6,5,3] image) => (uint8[N,6,5,3] y)", "y = Identity(image)", {})
    assert graph.images() == []
