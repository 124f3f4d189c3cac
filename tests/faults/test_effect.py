from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from deploytool.data.golden import Floor, Golden, Noise, Perturbation
from deploytool.faults.effect import effects
from deploytool.results.output_parts import OutputPart
from deploytool.spec import Preprocessing

FP32, FP16 = 16e-7, 4e-3  # tolerances
Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


def sample(exact: Array, moved: Floats | None = None, *, labels: bool = False, tied: float = 0.0) -> Golden:
    """A sample whose answers have a relative error of 5e-8, or an absolute error of `moved`, in one part."""
    rng = np.random.default_rng(0)
    step = np.abs(np.asarray(exact, np.float64)) * 5e-8 if moved is None else moved
    outputs = exact if labels else exact + rng.uniform(-1, 1, exact.shape) * step
    floor = Floor(1e-7, 1e-7)
    noise = Noise(floor, floor, (Perturbation(OutputPart("y", labels=labels), floor, floor, tied, tied),))
    nothing = np.zeros((len(exact), 0, 0, 3), np.uint8)
    return Golden(nothing, {}, {"y": outputs}, {"y": exact}, np.full(len(exact), -1), Preprocessing(), noise)


def effect(faulty: Array, exact: Array, known: Golden, limit: float = FP32) -> float:
    return float(effects({"y": faulty}, {"y": exact}, known, limit, FP32).max())


@pytest.mark.parametrize("turn", [(0, 1, 2), (0, 2, 1)])
@pytest.mark.parametrize("limit", [FP32, FP16])
def test_the_effect_on_small_channels_is_relative_to_their_size(turn: tuple[int, int, int], limit: float) -> None:
    rng = np.random.default_rng(1)
    exact = np.concatenate([rng.normal(size=(8, 4, 30)) * 640, rng.uniform(size=(8, 6, 30))], axis=1).transpose(turn)
    faulty = exact.transpose(turn).copy()
    faulty[3, 7, 5] += 0.5
    faulty = faulty.transpose(turn)
    assert effect(faulty, exact, sample(exact), limit) == pytest.approx(0.5 / limit, rel=0.1)
    assert 0.5 / np.abs(exact).max() / limit < 700  # with a single scale the effect would be small
    assert effect(exact, exact, sample(exact), limit) == 0


def test_the_effect_on_large_channels_is_relative_to_the_largest() -> None:
    exact = np.random.default_rng(1).normal(size=(8, 100))
    faulty = exact.copy()
    faulty[2, 5] += 0.1
    assert effect(faulty, exact, sample(exact)) == pytest.approx(0.1 / np.abs(exact).max() / FP32, rel=0.3)


def test_a_class_that_is_small_by_chance_does_not_enlarge_the_effect() -> None:
    exact = np.random.default_rng(1).normal(size=(8, 100))
    exact[:, 50] *= 1e-5
    known = sample(exact, np.full(exact.shape, 1e-7))
    faulty = exact.copy()
    faulty[:, 50] += 0.5 * FP32 * np.abs(exact).max()  # half the tolerance
    assert effect(faulty, exact, known) < 2


@pytest.mark.parametrize("wrong", [0.0, np.nan, 1.0])
def test_a_lost_mark_is_an_infinite_effect(wrong: float) -> None:
    exact = np.random.default_rng(1).normal(size=(8, 10))
    exact[:, 3] = -np.inf
    faulty = exact.copy()
    faulty[1, 3] = wrong
    assert effect(faulty, exact, sample(exact, np.zeros(exact.shape))) == np.inf
    other = np.where(np.isinf(exact), -65504.0, exact)
    assert effect(other, exact, sample(exact, np.zeros(exact.shape))) == 0


@pytest.mark.parametrize(("share", "tied", "large"), [(0.1, 0.0, True), (0.001, 0.0, False), (0.01, 0.05, False)])
def test_the_effect_on_labels_is_the_share_that_changes(share: float, tied: float, large: bool) -> None:
    exact = np.random.default_rng(1).integers(0, 7, (4, 2000))
    faulty = exact.copy()
    faulty[:, : int(2000 * share)] += 1
    assert (effect(faulty, exact, sample(exact, labels=True, tied=tied)) > 2) is large
