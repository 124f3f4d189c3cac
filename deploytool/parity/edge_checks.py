"""Checks the answer at an edge case: by its largest error alone, relative to the scale of the golden answers.

Where the FP64 answer is a difference of equal numbers that a normalisation divides by nearly nothing, as GroupNorm of a
constant does, the order in which FP32 numbers are added may decide the answer. Such an edge case cannot be judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from deploytool.data.golden import Arrays, Edge, Golden, Noise
from deploytool.parity import detection_rows, golden_scale, metrics
from deploytool.parity.metrics import Tolerances
from deploytool.results.report import Check, Limits, Tolerance
from deploytool.spec import Precision

_NO_COSINE, _NO_SNR_DB = -1.0, -400.0  # an answer near zero has no meaningful direction or power

EdgeTolerance = Callable[[Edge], Tolerances]  # from the noise of the model measured at that edge case


def check(
    got: Arrays, edge: Edge, sample: Golden, allowed: Tolerances, tolerance_at: EdgeTolerance, precision: Precision
) -> Check | None:
    """The comparison with the FP64 answer; if it fails by golden noise, the noise measured at the edge decides.

    Integer outputs are compared in FP32 only, except classes of detections, which are aligned: rounding to 16 bits
    changes them wherever two values tie, as they do all over an image of one colour. None if no output is left to
    compare. Raises ValueError for answers of other shapes.
    """
    along = sample.noise.rows.outputs if sample.noise.rows else ()
    exact = precision is Precision.FP32
    names = [name for name, array in edge.reference.items() if exact or array.dtype.kind == "f" or name in along]
    if not names:
        return None
    parts = [moved.part for moved in sample.noise.parts]
    compared = ({name: arrays[name] for name in names} for arrays in (got, edge.reference))
    answered, expected = (golden_scale.beside_largest(arrays, sample.reference, parts) for arrays in compared)

    def checked(tolerances: Tolerances) -> Check:
        return metrics.check(answered, expected, f"FP64 at {edge.name}", _lenient(tolerances.of(precision)))

    by_golden_noise = checked(allowed)
    if not by_golden_noise.broken:
        return by_golden_noise
    by_edge_noise = checked(tolerance_at(edge))
    return min(by_golden_noise, by_edge_noise, key=lambda check: len(check.broken))


def error(got: Arrays, edge: Edge, reference: Arrays, noise: Noise) -> float:
    """The largest error of `got` at an edge case, relative to the scale of the golden answers `reference`."""
    parts = [moved.part for moved in noise.parts]
    got = detection_rows.aligned_by_most(got, edge.reference, noise.rows)
    answered, expected = (golden_scale.beside_largest(arrays, reference, parts) for arrays in (got, edge.reference))
    return metrics.compare(answered, expected, parts=parts).max_error


def _lenient(tolerance: Tolerance) -> Tolerance:
    lenient = replace(tolerance, cosine=_NO_COSINE, snr_db=_NO_SNR_DB)
    if not isinstance(lenient, Limits):
        return lenient
    return replace(lenient, parts=tuple(replace(limit, tolerance=_lenient(limit.tolerance)) for limit in lenient.parts))
