from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from deploytool.data.golden import Floor, Golden, Noise, Perturbation
from deploytool.faults.effect import effects
from deploytool.results.output_parts import OutputPart
from deploytool.spec import Preprocessing

FP32, FP16 = 16e-7, 4e-3  # what passes
Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


def sample(exact: Array, moved: Floats | None = None, *, labels: bool = False, tied: float = 0.0) -> Golden:
    """A sample whose answers are moved by 5e-8 of each, or by that much; its parts say nothing but what is a label."""
    rng = np.random.default_rng(0)
    step = np.abs(np.asarray(exact, np.float64)) * 5e-8 if moved is None else moved
    outputs = exact if labels else exact + rng.uniform(-1, 1, exact.shape) * step
    floor = Floor(1e-7, 1e-7)
    noise = Noise(floor, floor, (Perturbation(OutputPart("y", labels=labels), floor, floor, tied, tied),))
    nothing = np.zeros((len(exact), 0, 0, 3), np.uint8)
    return Golden(nothing, {}, {"y": outputs}, {"y": exact}, np.full(len(exact), -1), Preprocessing(), noise)


def effect(spoilt: Array, exact: Array, known: Golden, limit: float = FP32) -> float:
    return float(effects({"y": spoilt}, {"y": exact}, known, limit, FP32).max())


@pytest.mark.parametrize("turn", [(0, 1, 2), (0, 2, 1)])
@pytest.mark.parametrize("limit", [FP32, FP16])
def test_a_fault_of_quiet_channels_is_as_large_as_it_is_there(turn: tuple[int, int, int], limit: float) -> None:
    rng = np.random.default_rng(1)
    exact = np.concatenate([rng.normal(size=(8, 4, 30)) * 640, rng.uniform(size=(8, 6, 30))], axis=1).transpose(turn)
    spoilt = exact.transpose(turn).copy()
    spoilt[3, 7, 5] += 0.5
    spoilt = spoilt.transpose(turn)
    assert effect(spoilt, exact, sample(exact), limit) == pytest.approx(0.5 / limit, rel=0.1)
    assert 0.5 / np.abs(exact).max() / limit < 700  # what one scale would have made of it
    assert effect(exact, exact, sample(exact), limit) == 0


def test_a_fault_of_the_loud_channels_is_relative_to_the_largest_of_them() -> None:
    exact = np.random.default_rng(1).normal(size=(8, 100))
    spoilt = exact.copy()
    spoilt[2, 5] += 0.1
    assert effect(spoilt, exact, sample(exact)) == pytest.approx(0.1 / np.abs(exact).max() / FP32, rel=0.3)


def test_a_class_that_is_quiet_by_chance_does_not_make_a_fault_large() -> None:
    exact = np.random.default_rng(1).normal(size=(8, 100))
    exact[:, 50] *= 1e-5
    known = sample(exact, np.full(exact.shape, 1e-7))
    spoilt = exact.copy()
    spoilt[:, 50] += 0.5 * FP32 * np.abs(exact).max()  # half of what passes
    assert effect(spoilt, exact, known) < 2


@pytest.mark.parametrize("wrong", [0.0, np.nan, 1.0])
def test_a_lost_mark_is_beyond_all_measure(wrong: float) -> None:
    exact = np.random.default_rng(1).normal(size=(8, 10))
    exact[:, 3] = -np.inf
    spoilt = exact.copy()
    spoilt[1, 3] = wrong
    assert effect(spoilt, exact, sample(exact, np.zeros(exact.shape))) == np.inf
    other = np.where(np.isinf(exact), -65504.0, exact)
    assert effect(other, exact, sample(exact, np.zeros(exact.shape))) == 0


@pytest.mark.parametrize(("share", "tied", "large"), [(0.1, 0.0, True), (0.001, 0.0, False), (0.01, 0.05, False)])
def test_labels_count_by_how_many_change(share: float, tied: float, large: bool) -> None:
    exact = np.random.default_rng(1).integers(0, 7, (4, 2000))
    spoilt = exact.copy()
    spoilt[:, : int(2000 * share)] += 1
    assert (effect(spoilt, exact, sample(exact, labels=True, tied=tied)) > 2) is large
