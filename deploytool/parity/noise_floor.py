"""The noise floor of each output part, computed from answers that were perturbed by rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deploytool.data.golden import Arrays, Floor, Noise, Perturbation
from deploytool.parity import metrics, output_scales, scales
from deploytool.results.output_parts import OutputPart

_TAIL = 0.5  # of the largest error of all draws, which is an extreme already


def noise(
    single: Sequence[Arrays],
    half: Sequence[Arrays],
    truth: Arrays,
    ordered: Sequence[Arrays],
    reference: Arrays,
    share: Floor,
    known: Sequence[OutputPart] = (),
) -> Noise:
    """The noise of perturbed FP32 answers (`single`) and FP16 answers (`half`) to cases whose FP64 answers are `truth`.

    `ordered` are FP32 answers to all cases with every sum in its worst order, `reference` the FP64 answers to these.
    Their error counts `share` times. The output parts are `known` if these fit the outputs, else found in `reference`.
    """
    fit = known and all(part.fits(reference[part.output].shape) for part in known)
    parts = known if fit else output_scales.find(reference, single, truth)
    perturbations = tuple(
        Perturbation(
            part,
            _larger(floor(single, truth, part), floor(ordered, reference, part), share),
            floor(half, truth, part),
        )
        for part in parts
    )
    return Noise(
        _max([part.fp32 for part in perturbations]), _max([part.fp16 for part in perturbations]), perturbations
    )


def with_bf16(noise: Noise, runs: Sequence[Arrays], truth: Arrays) -> Noise:
    """The noise with that of perturbed BF16 answers `runs` to cases whose FP64 answers are `truth`."""
    floors = [floor(runs, truth, perturbation.part) for perturbation in noise.parts]
    parts = tuple(replace(each, bf16=floor) for each, floor in zip(noise.parts, floors, strict=True))
    return replace(noise, bf16=_max(floors), parts=parts)


def tied(noise: Noise, fp32: Arrays, fp16: Arrays) -> Noise:
    """The noise with the share of each part's elements that are ties in FP32 and in FP16."""
    parts = tuple(
        replace(perturbation, tied32=_share(fp32, perturbation.part), tied16=_share(fp16, perturbation.part))
        for perturbation in noise.parts
    )
    return replace(noise, parts=parts)


def tied_bf16(noise: Noise, ties: Arrays) -> Noise:
    """The noise with the share of each part's elements that are ties in BF16."""
    parts = tuple(replace(moved, tied_bf16=_share(ties, moved.part)) for moved in noise.parts)
    return replace(noise, parts=parts)


def _share(ties: Arrays, part: OutputPart) -> float:
    """The share of a part's elements that are ties; 0 for a part that is no labels."""
    return metrics.ties_share(ties[part.output], part) if part.labels and part.output in ties else 0.0


def _larger(drawn: Floor, order: Floor, share: Floor) -> Floor:
    """The larger of the floor from random rounding and of `share` times that from the worst order of sums."""
    return Floor(max(drawn.max_error, order.max_error * share.max_error), max(drawn.rms, order.rms * share.rms))


def _max(floors: Sequence[Floor]) -> Floor:
    return Floor(max(floor.max_error for floor in floors), max(floor.rms for floor in floors))


def floor(answers: Sequence[Arrays], truth: Arrays, part: OutputPart) -> Floor:
    """The largest errors of a part over all perturbed answers, at most 1.

    Answers that overflow are left out: an overflow is not noise.
    """
    compared = [metrics.compare(perturbed, truth, parts=[part]) for perturbed in answers]
    parities = [parity for parity in compared if not parity.invalid] or compared
    largest = max(parity.max_error for parity in parities)
    rms = max(10 ** (-parity.snr_db / 20) for parity in parities)
    return Floor(min(largest, 1.0), min(rms, 1.0))


def rare_floor(answers: Sequence[Arrays], truth: Arrays, part: OutputPart) -> Floor:
    """The errors of a part over all perturbed answers where few cases have most of the error, at most 1.

    The largest of few draws says little then: a value that moves by a whole step does so in one case of many. The floor
    is the root mean square of the errors of all cases in all answers, and no less than half of the largest of them.
    Answers that overflow are left out.
    """
    expected = np.asarray(part.of(truth[part.output]), np.float64)
    got = [np.asarray(part.of(each[part.output]), np.float64) for each in answers]
    marked = part.marked(expected)
    expected = np.where(marked, 0.0, expected)
    differences = [np.where(marked, 0.0, each) - expected for each in got if np.isfinite(each[~marked]).all()]
    if not differences:
        return Floor(1.0, 1.0)
    by_case = len(differences), len(expected), -1
    errors, signal = np.reshape(differences, by_case), expected.reshape(len(expected), -1)
    largest = np.abs(errors).max(axis=2, initial=0.0) / scales.of_cases(np.abs(signal))
    rms = np.linalg.norm(errors, axis=2) / scales.of_cases(np.linalg.norm(signal, axis=1))
    return Floor(_rare(largest), _rare(rms))


def _rare(errors: scales.Floats) -> float:
    return min(1.0, max(float(np.sqrt(np.square(errors).mean())), _TAIL * float(errors.max(initial=0.0))))
