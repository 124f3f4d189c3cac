"""Measures how often the interval of a difference and its verdict are right: `python -m tests.metrics.coverage`.

Pairs of figures are drawn from distributions whose true mean difference is known by their definition. Printed are, for
each distribution and number of images: how often the interval contains the truth; how often an artifact exactly at the
margin is called not worse, and worse; the same for one beyond the margin, and within it; how often the verdict is right
with images enough; and how often the number of further images that it asks for decides.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from deploytool.metrics import inferiority
from deploytool.results.measure import Inferiority

Floats = npt.NDArray[np.float64]
Pair = tuple[Floats, Floats]


@dataclass(frozen=True)
class Distribution:
    """Pairs of artifact and source; `truth` is the mean of their difference."""

    name: str
    draw: Callable[[np.random.Generator, int], Pair]
    truth: float
    span: float = 1.0


def binary(lost: float, won: float) -> Distribution:
    """Right or wrong; the artifact loses and wins these shares of the images."""

    def draw(rng: np.random.Generator, images: int) -> Pair:
        kind = rng.random(images)
        both = (rng.random(images) < 0.7).astype(float)
        is_lost, is_won = kind < lost, kind > 1 - won
        return np.where(is_lost, 0, np.where(is_won, 1, both)), np.where(is_lost, 1, np.where(is_won, 0, both))

    return Distribution(f"0/1, {lost:.1%} lost, {won:.1%} won", draw, won - lost)


def overlap(shift: float, spread: float) -> Distribution:
    """IoU, moved by a uniform amount."""

    def draw(rng: np.random.Generator, images: int) -> Pair:
        source = rng.uniform(0.3, 0.7, images)
        return source + shift + rng.uniform(-spread, spread, images), source

    return Distribution(f"IoU moved by {shift:+.3f} ± {spread}", draw, shift)


def failures(rate: float, sign: int = -1) -> Distribution:
    """IoU with a small error, and at this rate total failures of the artifact (of the source for the sign 1)."""

    def draw(rng: np.random.Generator, images: int) -> Pair:
        good = rng.uniform(0.6, 1.0, images)
        poor = np.where(rng.random(images) < rate, 0.0, good - rng.uniform(0, 0.002, images))
        return (poor, good) if sign < 0 else (good, poor)

    return Distribution(f"{rate:.1%} total failures ({sign:+d})", draw, sign * (rate * 0.8 + (1 - rate) * 0.001))


def errors(rate: float) -> Distribution:
    """Word accuracy: of 5 words, the artifact has another number of errors than the source at this rate, one more."""

    def draw(rng: np.random.Generator, images: int) -> Pair:
        source = 1 - rng.integers(0, 3, images) / 5
        return source - (rng.random(images) < rate) / 5, source

    return Distribution(f"one more of 5 words wrong in {rate:.1%}", draw, -rate / 5)


DISTRIBUTIONS = (
    *(binary(0.005, 0.0), binary(0.006, 0.002), binary(0.05, 0.04), binary(0.0, 0.01), binary(0.2, 0.1)),
    *(overlap(-0.01, 0.05), overlap(0.0, 0.2), failures(0.01), failures(0.03, 1), failures(0.05), errors(0.05)),
)
SIZES = (30, 100, 500, 2000)


@dataclass(frozen=True)
class Rates:
    """Shares of the trials: the truth in the interval, and wrong verdicts at, beyond and within the margin."""

    covered: float
    not_worse: float
    worse: float
    not_worse_beyond: float
    worse_within: float


def rates(kind: Distribution, images: int, trials: int, seed: int) -> Rates:
    """The rates of a distribution over so many sets of images."""
    rng = np.random.default_rng((seed, images))
    margin, step = -kind.truth, max(abs(kind.truth), 0.005) / 2
    counts = np.zeros(5)
    for trial in range(trials):
        found = inferiority.estimate(*kind.draw(rng, images), span=kind.span, seed=trial)
        at, smaller, larger = (inferiority.judge(found, limit)[0] for limit in (margin, margin - step, margin + step))
        counts += (
            found.difference.low <= kind.truth <= found.difference.high,
            at is Inferiority.NOT_WORSE,
            at is Inferiority.WORSE,
            smaller is Inferiority.NOT_WORSE,
            larger is Inferiority.WORSE,
        )
    return Rates(*(counts / trials))


@dataclass(frozen=True)
class Case:
    """A distribution with a margin, images clearly enough for it, and the right verdict."""

    kind: Distribution
    margin: float
    images: int
    right: Inferiority


CASES = (
    Case(binary(0.001, 0.001), 0.005, 4000, Inferiority.NOT_WORSE),
    Case(binary(0.0, 0.0), 0.005, 800, Inferiority.NOT_WORSE),
    Case(binary(0.02, 0.02), 0.02, 1500, Inferiority.NOT_WORSE),
    Case(binary(0.05, 0.0), 0.01, 500, Inferiority.WORSE),
    Case(overlap(0.0, 0.05), 0.01, 1000, Inferiority.NOT_WORSE),
    Case(overlap(-0.03, 0.05), 0.01, 400, Inferiority.WORSE),
    Case(failures(0.05), 0.01, 600, Inferiority.WORSE),
    Case(failures(0.0), 0.01, 600, Inferiority.NOT_WORSE),
)


def power(case: Case, trials: int, seed: int) -> float:
    """How often the verdict is the right one with images enough."""
    rng = np.random.default_rng((seed, 7))
    return float(np.mean([verdict(case, rng, case.images, trial)[0] is case.right for trial in range(trials)]))


def verdict(case: Case, rng: np.random.Generator, images: int, seed: int) -> tuple[Inferiority, int | None]:
    found = inferiority.estimate(*case.kind.draw(rng, images), span=case.kind.span, seed=seed)
    return inferiority.judge(found, case.margin)


def forecasts(case: Case, start: int, trials: int, seed: int) -> Iterator[tuple[bool, bool, int]]:
    """For each set of `start` images that decides nothing, with the further images it asks for.

    Whether these decide at all, whether rightly, and their number.
    """
    rng = np.random.default_rng((seed, 8))
    for trial in range(trials):
        artifact, source = case.kind.draw(rng, start)
        found = inferiority.estimate(artifact, source, case.kind.span, trial)
        more = inferiority.judge(found, case.margin)[1]
        if more is None or more > 100_000:  # longer than a campaign can take
            continue
        rest = case.kind.draw(rng, more)
        all_artifact, all_source = np.concatenate((artifact, rest[0])), np.concatenate((source, rest[1]))
        end = inferiority.measure(all_artifact, all_source, case.margin, case.kind.span, trial).verdict
        yield end is not Inferiority.NOT_DECIDED, end is case.right, more


def print_rates(trials: int, seed: int) -> None:
    for kind, images in product(DISTRIBUTIONS, SIZES):
        found = rates(kind, images, trials, seed)
        print(
            f"{kind.name:36} n={images:5}: covered {found.covered:.1%}; at the margin not worse {found.not_worse:.1%},"
            f" worse {found.worse:.1%}; beyond it not worse {found.not_worse_beyond:.1%}; within it worse"
            f" {found.worse_within:.1%}",
            flush=True,
        )


def print_verdicts(trials: int, seed: int) -> None:
    for case in CASES:
        right = power(case, trials // 10, seed)
        print(f"{case.kind.name:36} margin {case.margin}, n={case.images}: {right:.0%} {case.right}", flush=True)
        for start in (30, 200):
            ends = np.array([*forecasts(case, start, trials // 20, seed)], float).reshape(-1, 3)
            if len(ends):
                decided, correct, more = ends[:, 0].mean(), ends[:, 1].mean(), np.median(ends[:, 2])
                what = f"{len(ends)} forecasts, median {more:.0f} more"
                print(f"  after {start}: {what}; decided {decided:.0%}, rightly {correct:.0%}", flush=True)


PARTS = {"rates": print_rates, "verdicts": print_verdicts}


def main() -> None:
    """Prints the rates of all distributions, then the power and the forecasts of all cases, or one part alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    asked = parser.parse_args()
    for part in asked.parts:
        PARTS[part](asked.trials, asked.seed)


if __name__ == "__main__":
    main()
