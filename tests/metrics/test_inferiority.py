"""The interval of a difference, and the verdict of non-inferiority."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deploytool.errors import BadInput
from deploytool.metrics import inferiority
from deploytool.metrics.inferiority import Estimate
from deploytool.results.measure import Difference, Inferiority
from tests.metrics import coverage

ONES = np.ones(12)


def clopper_pearson(lost: int, images: int) -> float:
    """The upper end of the exact 95 % interval of a rate: with it, so few losses have a probability of 2.5 %."""
    low, high = 0.0, 1.0
    for _ in range(30):
        rate = (low + high) / 2
        chance = sum(math.comb(images, k) * rate**k * (1 - rate) ** (images - k) for k in range(lost + 1))
        low, high = (rate, high) if chance > 0.025 else (low, rate)
    return low


@pytest.mark.parametrize(("lost", "images"), [(0, 12), (0, 700), (1, 100), (3, 100), (10, 500), (60, 300)])
def test_losses_of_whole_images_have_the_exact_interval(lost: int, images: int) -> None:
    artifact = (np.arange(images) >= lost).astype(float)
    found = [inferiority.estimate(artifact, np.ones(images), 1.0, seed).difference.low for seed in range(5)]
    assert -np.mean(found) == pytest.approx(clopper_pearson(lost, images), rel=0.05)


def test_twelve_images_without_a_difference_prove_nothing() -> None:
    found = inferiority.measure(ONES, ONES, margin=0.005, span=1.0)
    assert found.verdict is Inferiority.NOT_DECIDED
    assert found.difference.value == 0
    assert found.more is not None
    assert 700 < found.more < 800  # 737 if all further ones agree


@pytest.mark.parametrize(("images", "margin"), [(30, 0.005), (360, 0.005), (100, 0.01), (12, 0.2)])
@pytest.mark.parametrize("apart", [0.0, 0.0001])
def test_without_a_difference_the_forecast_is_what_the_exact_interval_takes(
    images: int, margin: float, apart: float
) -> None:
    least = next(total for total in range(images, 2000) if clopper_pearson(0, total) < margin)
    source = np.random.default_rng(images).uniform(0.4, 0.6, 2000)
    artifact = source + apart * np.tile([1, -1], 1000)
    found = inferiority.measure(artifact[:images], source[:images], margin, span=1.0)
    assert found.more is not None
    total = images + found.more
    assert least <= total <= 1.05 * least + 1
    decided = [inferiority.measure(artifact[:total], source[:total], margin, 1.0, seed).verdict for seed in range(20)]
    assert decided.count(Inferiority.NOT_WORSE) >= 12  # 80 % are aimed at: the interval is drawn


@pytest.mark.parametrize(("images", "verdict"), [(650, Inferiority.NOT_DECIDED), (850, Inferiority.NOT_WORSE)])
def test_agreement_decides_where_the_exact_interval_does(images: int, verdict: Inferiority) -> None:
    assert (clopper_pearson(0, images) < 0.005) is (verdict is Inferiority.NOT_WORSE)
    same = np.full(images, 0.7)
    assert inferiority.measure(same, same, margin=0.005, span=1.0).verdict is verdict


def test_the_interval_of_many_images_is_that_of_the_normal_distribution() -> None:
    rng = np.random.default_rng(3)
    source = rng.random(20_000)
    artifact = np.clip(source + rng.normal(0.01, 0.4, len(source)), 0, 1)
    paired = artifact - source
    half = 1.96 * paired.std() / math.sqrt(len(paired))
    found = inferiority.estimate(artifact, source, 1.0).difference
    assert found.value == pytest.approx(paired.mean(), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((paired.mean() - half, paired.mean() + half), abs=0.1 * half)


def test_the_interval_depends_on_the_seed_alone() -> None:
    rng = np.random.default_rng(0)
    artifact, source = rng.random(300), rng.random(300)
    first, again, other = (inferiority.estimate(artifact, source, 1.0, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_gains_and_losses_are_treated_alike() -> None:
    rng = np.random.default_rng(5)
    artifact, source = (rng.random((2, 400)) < 0.6).astype(float)
    one = inferiority.estimate(artifact, source, 1.0).difference
    reverse = inferiority.estimate(source, artifact, 1.0).difference
    assert (one.value, one.low, one.high) == pytest.approx((-reverse.value, -reverse.high, -reverse.low))


def test_a_metric_of_wider_span_needs_more_images() -> None:
    lows = [inferiority.estimate(ONES, ONES, span).difference.low for span in (1.0, 2.0)]
    assert lows[1] == pytest.approx(2 * lows[0])


@pytest.mark.parametrize(
    ("low", "high", "margin", "verdict"),
    [
        (-0.004, 0.01, 0.005, Inferiority.NOT_WORSE),
        (-0.005, 0.01, 0.005, Inferiority.NOT_DECIDED),
        (-0.02, -0.005, 0.005, Inferiority.NOT_DECIDED),
        (-0.02, -0.006, 0.005, Inferiority.WORSE),
        (-0.02, -0.001, 0.0, Inferiority.WORSE),
        (0.001, 0.002, 0.0, Inferiority.NOT_WORSE),
    ],
)
def test_the_verdict_follows_from_the_interval(low: float, high: float, margin: float, verdict: Inferiority) -> None:
    found = Estimate(Difference((low + high) / 2, low, high), deviation=0.1, images=50, span=1.0)
    assert inferiority.judge(found, margin)[0] is verdict


def test_no_number_of_images_decides_a_difference_at_the_margin() -> None:
    at = Estimate(Difference(-0.005, -0.1, 0.1), deviation=0.3, images=50, span=1.0)
    near = Estimate(Difference(-0.004, -0.1, 0.1), deviation=0.3, images=50, span=1.0)
    assert inferiority.judge(at, 0.005) == (Inferiority.NOT_DECIDED, None)
    assert (inferiority.judge(near, 0.005)[1] or 0) > 100_000


def test_a_forecast_falls_with_the_distance_from_the_margin() -> None:
    values = (-0.03, -0.02, 0.0, 0.02)
    found = [Estimate(Difference(value, -1, 1), deviation=0.3, images=50, span=1.0) for value in values]
    beyond, at_twice, equal, better = (inferiority.judge(one, 0.01)[1] or 0 for one in found)
    assert 0 < beyond < at_twice
    assert 0 < better < equal == pytest.approx(at_twice)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_is_named(odd: float) -> None:
    with pytest.raises(BadInput, match="image 2 is no finite number"):
        inferiority.estimate(np.array([0.0, 1.0, odd]), np.ones(3), 1.0)


def test_a_set_without_images_is_an_error() -> None:
    with pytest.raises(BadInput, match="no image"):
        inferiority.estimate(np.zeros(0), np.zeros(0), 1.0)


@pytest.mark.parametrize(("figures", "span"), [((3, 5), 5), ((-2, 3), 5), ((0.7, 0.7), 0.7), ((0, 0), 1)])
def test_the_span_of_an_unknown_metric_is_never_zero(figures: tuple[float, float], span: float) -> None:
    series = np.array(figures)
    assert inferiority.observed_span(series, series) == pytest.approx(span)


def test_a_figure_beyond_the_span_widens_it() -> None:
    artifact = np.array([0.0, -4.0])
    assert inferiority.estimate(artifact, np.zeros(2), 1.0).span == 4


CHOSEN = (
    coverage.binary(0.006, 0.002),
    coverage.binary(0.05, 0.04),
    coverage.failures(0.01),
    coverage.failures(0.03, 1),
)


@pytest.mark.parametrize("kind", [*CHOSEN, coverage.overlap(0.0, 0.2)], ids=lambda kind: kind.name)
@pytest.mark.parametrize("images", [30, 300])
def test_the_interval_covers_the_truth_and_verdicts_are_rarely_wrong(kind: coverage.Distribution, images: int) -> None:
    found = coverage.rates(kind, images, trials=80, seed=1)
    assert found.covered >= 0.93
    assert max(found.not_worse, found.worse) <= 0.05
    assert max(found.not_worse_beyond, found.worse_within) <= 0.05


@pytest.mark.parametrize("case", coverage.CASES, ids=lambda case: f"{case.kind.name}, {case.margin}")
def test_enough_images_give_the_right_verdict(case: coverage.Case) -> None:
    assert coverage.power(case, trials=10, seed=1) >= 0.8


@pytest.mark.parametrize("case", [coverage.CASES[2], coverage.CASES[6]], ids=lambda case: case.kind.name)
def test_the_further_images_decide_in_most_cases(case: coverage.Case) -> None:
    ends = [*coverage.forecasts(case, 100, trials=30, seed=1)]
    assert len(ends) >= 10
    assert np.mean([decided for decided, *_ in ends]) > 0.5


def test_figures_that_hardly_vary_prove_no_small_range() -> None:
    figures = np.linspace(0.90, 0.91, 20)
    span = inferiority.observed_span(figures, figures)
    assert span == pytest.approx(0.91)
    assert inferiority.measure(figures, figures, 0.005, span).verdict is Inferiority.NOT_DECIDED
