"""The golden answers of a bundle, read from bytes whose digest was checked, and the check against them."""

from __future__ import annotations

import io
from pathlib import Path

from deploytool.bundle.manifest import Manifest, read_verified
from deploytool.data import golden
from deploytool.data.golden import Arrays, Golden
from deploytool.device.candidates import Candidate
from deploytool.errors import StageFailed
from deploytool.parity import metrics
from deploytool.results.report import Check

AS_QUANTISED = "its answers as quantised"


def read_golden(folder: Path, manifest: Manifest) -> Golden:
    """The golden cases of the bundle in a folder."""
    path = manifest.golden.path
    return golden.parse(io.BytesIO(read_verified(folder, manifest, path)), folder / path)


def read_quantised(folder: Path, manifest: Manifest, path: str) -> Arrays:
    """The answers of a graph in INT8 or FP8 as quantised, in a file of the bundle."""
    return golden.parse_answers(io.BytesIO(read_verified(folder, manifest, path)), folder / path)


def check(outputs: Arrays, sample: Golden, folder: Path, manifest: Manifest, candidate: Candidate) -> Check:
    """The check of the golden answers: in 8 bits those as quantised, in other precisions those in FP64.

    Raises StageFailed if the outputs have other names or shapes.
    """
    precision = candidate.precision
    try:
        if candidate.answers:
            answers = read_quantised(folder, manifest, candidate.answers)
            limits = next(each.limits for each in manifest.int8 if each.answers == candidate.answers)
            return metrics.check(outputs, answers, AS_QUANTISED, limits)
        return metrics.check(outputs, sample.reference, "FP64", manifest.tolerances[precision], sample.ties(precision))
    except (ValueError, KeyError) as error:
        raise StageFailed(f"the outputs are not those of the golden cases: {error}", "pack the bundle again") from error
