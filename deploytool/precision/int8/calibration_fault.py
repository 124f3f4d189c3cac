"""What can be wrong with a calibration, and a place where it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploytool.spec import StrEnum


class CalibrationFault(StrEnum):
    """A fault of a calibration, or of the QDQ graph made with it."""

    TEST_CASES = "test-cases"
    ZEROS = "zeros"
    RANDOM_DATA = "random-data"
    WRONG_NORMALISATION = "wrong-normalisation"
    STALE_RANGES = "stale-ranges"
    SWAPPED_SCALES = "swapped-scales"
    CLIPPED_OUTLIER = "clipped-outlier"
    PER_TENSOR_DEPTHWISE = "per-tensor-depthwise"
    MISSING_RESIDUAL_Q = "missing-residual-q"
    DOUBLE_Q = "double-q"


SENTENCES: Mapping[CalibrationFault, str] = {
    CalibrationFault.TEST_CASES: "Cases that the result is judged by are among those it is calibrated with.",
    CalibrationFault.ZEROS: "Calibration cases are constant, so that ranges say nothing about real ones.",
    CalibrationFault.RANDOM_DATA: "The calibration data is noise without the structure of the golden cases.",
    CalibrationFault.WRONG_NORMALISATION: "The calibration data is normalised in another way than the model expects.",
    CalibrationFault.STALE_RANGES: "The ranges were collected on another graph, other weights or other data.",
    CalibrationFault.SWAPPED_SCALES: "Two tensors have the scale of each other.",
    CalibrationFault.CLIPPED_OUTLIER: "The range of a tensor cuts off values that carry much of its signal.",
    CalibrationFault.PER_TENSOR_DEPTHWISE: "A depthwise convolution has one scale for the weights of all channels.",
    CalibrationFault.MISSING_RESIDUAL_Q: "An input of a residual addition is not quantised.",
    CalibrationFault.DOUBLE_Q: "A tensor is quantised twice in a row, and so rounded twice.",
}


@dataclass(frozen=True)
class Finding:
    """A fault and where it is: an input, a tensor or a node; `reason` is the evidence, for people."""

    fault: CalibrationFault
    where: str
    reason: str


def lines(findings: Sequence[Finding]) -> list[str]:
    """One line for each fault, with the first place where it is."""
    said = []
    for fault in dict.fromkeys(finding.fault for finding in findings):
        first, *more = (finding for finding in findings if finding.fault is fault)
        place = f"{first.where}: {first.reason}" if first.where else first.reason
        said.append(f"{SENTENCES[fault]} {place}" + f"; and {len(more)} more" * bool(more))
    return said
