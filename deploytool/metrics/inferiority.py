"""Whether an artifact is worse than its source by more than a margin, judged on the same images."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploytool.errors import BadInput
from deploytool.results.measure import Difference, Inferiority, Measure

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
_TAIL = 0.025  # of the two-sided 95 % interval, on either side
_Z, _Z_POWER = 1.96, 0.84  # standard normal quantiles: of the interval, and of a decision in 80 % of cases
_UNSEEN = 0.5  # events of the size of the span that are assumed in a forecast
_DRAWN = math.sqrt((1 - _TAIL) / (_TAIL * RESAMPLES))  # deviation of the drawn quantile of an exponential distribution
_MOST_IMAGES = 10_000_000
_CHUNK = 1_000_000  # weights in memory at once


@dataclass(frozen=True)
class Estimate:
    """A difference with what a forecast needs.

    `deviation` is the standard deviation of one image's contribution, `span` the range of one image's figure.
    """

    difference: Difference
    deviation: float
    images: int
    span: float


def estimate(artifact: Floats, source: Floats, span: float, seed: int = 0) -> Estimate:
    """The mean of `artifact` − `source`, two series of one figure an image, with its 95 % interval.

    `span` is the range that one image's figure can have, above 0. Raises `BadInput` for no images or a figure that is
    not finite.
    """
    paired = np.asarray(artifact, np.float64) - np.asarray(source, np.float64)
    if not np.isfinite(paired).all():
        first = int(np.flatnonzero(~np.isfinite(paired))[0])
        raise BadInput(f"the metric of image {first} is no finite number", "let the metric return a finite number")
    widest = max(span, float(np.abs(paired).max(initial=0)))
    return estimate_values(lambda weights: (weights @ paired) / weights.sum(axis=1), len(paired), widest, seed)


def estimate_values(
    difference: Callable[[Floats], Floats], images: int, span: float, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """The same for a value of the whole set; `difference` gives it for each row of weights (resamples × images).

    The values must not depend on the scale of the weights, which are positive.
    """
    if not images:
        raise BadInput("no image has a label, so there is nothing to measure", "give labelled images")
    # Plain resampling of 12 images without a difference gives the interval [0, 0]. Gaffke's bound does not: the
    # Bayesian bootstrap of the images and one more image, on which the artifact loses (for `high`, gains) the whole
    # span. For figures of two values it is the exact interval of Clopper and Pearson, because the weight of k images of
    # n and one more has the distribution Beta(k + 1, n - k); for all other bounded figures no case is known in which
    # it covers less than it says, and for many images it approaches the plain bootstrap. Pseudo-observations of half
    # an image (A. Agresti and Y. Min, 2005) are not enough here: of 400 images, 13 % of sets with a loss of 0.5
    # points show none, and would be called not worse.
    # Sources: N. Gaffke, 2005, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a
    # nonnegative variable"; E. Learned-Miller and P. Thomas, 2019, "A new confidence interval for the mean of a bounded
    # random variable"; D. Rubin, 1981, "The Bayesian bootstrap".
    # A value that is no mean is treated as one: an image's share in it is 1/n on average. In the mean over C classes,
    # class c in n_c images, it is the sum of 1 / (C n_c) over the classes of the image, and n_c images have that class.
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // images)
    sizes = [min(rows, resamples - first) for first in range(0, resamples, rows)]
    drawn = np.concatenate([difference(rng.standard_exponential((size, images))) for size in sizes])
    extra = rng.beta(1, images, resamples)  # the share of the additional image
    low = np.quantile((1 - extra) * drawn - extra * span, _TAIL)
    high = np.quantile((1 - extra) * drawn + extra * span, 1 - _TAIL)
    value = float(difference(np.ones((1, images)))[0])
    deviation = float(drawn.std()) * math.sqrt(images + 1)
    return Estimate(Difference(value, min(float(low), value), max(float(high), value)), deviation, images, span)


def judge(found: Estimate, margin: float) -> tuple[Inferiority, int | None]:
    """The verdict for a margin of at least 0, and about how many further images a decision takes.

    The number is None if it is decided or if no number of images would decide it.
    """
    if found.difference.low > -margin:
        return Inferiority.NOT_WORSE, None
    if found.difference.high < -margin:
        return Inferiority.WORSE, None
    return Inferiority.NOT_DECIDED, _further_images(found, margin)


def _further_images(found: Estimate, margin: float) -> int | None:
    """How many further images decide in about 80 % of cases, if the true difference is the observed one.

    None for more than ten million: the difference is then as good as the margin.
    """
    gap = abs(found.difference.value + margin)
    variance = found.deviation**2
    # What has not been seen in n images may still occur about once in 2n, but if it cost more than the margin, the
    # artifact would be worse. Where no image differs by more than the margin, nothing speaks for such failures: with
    # them the forecast would be two to three times what it takes if there are none.
    if found.deviation > margin:
        variance += min(_UNSEEN / found.images, max(margin, 0) / found.span) * found.span**2
    totals = range(found.images + 1, _MOST_IMAGES)
    enough = bisect.bisect_left(totals, True, key=lambda total: _reach(variance, found.span, total) < gap)
    return totals[enough] - found.images if enough < len(totals) else None


def _reach(variance: float, span: float, images: int) -> float:
    """How far below the true difference the interval of so many images reaches, at most in 80 % of cases.

    `variance` is that of one image's contribution.
    """
    share = span / images  # the standard deviation of what the additional image takes
    extra = span * (1 - math.pow(_TAIL, 1 / images))  # its quantile
    width = extra + _Z * (math.hypot(math.sqrt(variance / images), share) - share)
    return width + _Z_POWER * math.hypot(math.sqrt(variance / images), _DRAWN * share)


def measure(artifact: Floats, source: Floats, margin: float, span: float, seed: int = 0) -> Measure:
    """The verdict on two series of one figure an image, whose mean is the value of the set; see `estimate`."""
    found = estimate(artifact, source, span, seed)
    return conclude(found, float(np.mean(artifact)), float(np.mean(source)), margin)


def conclude(found: Estimate, artifact: float, source: float, margin: float) -> Measure:
    """The measure of an artifact with the values of the set for it and its source."""
    verdict, more = judge(found, margin)
    return Measure(artifact, source, found.images, found.difference, verdict, more)


def observed_span(artifact: Floats, source: Floats) -> float:
    """The range of the figures of a metric whose range is unknown.

    It reaches to 0, the figure of an artifact that fails, or is 1 if all are 0: figures that hardly vary prove no small
    range.
    """
    figures = np.concatenate((np.asarray(artifact, np.float64), np.asarray(source, np.float64)))
    if not len(figures):
        return 1.0
    return max(float(np.ptp(figures)), float(np.abs(figures).max())) or 1.0
