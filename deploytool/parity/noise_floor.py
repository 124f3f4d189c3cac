"""How far rounding moves each part of an answer, from answers that were drawn with other roundings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deploytool.data.golden import Arrays, Floor, Noise, Perturbation
from deploytool.parity import metrics, output_scales
from deploytool.results.output_parts import OutputPart


def noise(
    single: Sequence[Arrays],
    half: Sequence[Arrays],
    truth: Arrays,
    ordered: Sequence[Arrays],
    reference: Arrays,
    share: Floor,
    known: Sequence[OutputPart] = (),
) -> Noise:
    """The noise of `single` (FP32) and `half` (FP16) answers, each to the cases whose FP64 answers are `truth`.

    `ordered` are FP32 answers to all cases, whose FP64 answers are `reference`, with every sum in its worst order: of
    what that moves, so large a `share` counts. The parts of the answer are those `known` that
    fit, or follow from `reference` too.
    """
    fit = known and all(part.fits(reference[part.output].shape) for part in known)
    parts = known if fit else output_scales.find(reference, single, truth)
    moved = tuple(
        Perturbation(
            part,
            _larger(_floor(single, truth, part), _floor(ordered, reference, part), share),
            _floor(half, truth, part),
        )
        for part in parts
    )
    return Noise(_most([each.fp32 for each in moved]), _most([each.fp16 for each in moved]), moved)


def tied(moved: Noise, fp32: Arrays, fp16: Arrays) -> Noise:
    """The noise with the share of each part's elements that are ties in FP32 and in FP16."""

    def share(ties: Arrays, part: OutputPart) -> float:
        return metrics.ties_share(ties[part.output], part) if part.labels and part.output in ties else 0.0

    parts = tuple(replace(each, tied32=share(fp32, each.part), tied16=share(fp16, each.part)) for each in moved.parts)
    return replace(moved, parts=parts)


def _larger(drawn: Floor, order: Floor, share: Floor) -> Floor:
    """The floor that leaves room for what was drawn, and for the worst order of sums."""
    return Floor(max(drawn.max_error, order.max_error * share.max_error), max(drawn.rms, order.rms * share.rms))


def _most(floors: Sequence[Floor]) -> Floor:
    return Floor(max(each.max_error for each in floors), max(each.rms for each in floors))


def _floor(answers: Sequence[Arrays], truth: Arrays, part: OutputPart) -> Floor:
    """The most that any of the answers moves a part; it never counts for more than the part itself.

    An overflow is no noise: its answers are left out.
    """
    compared = [metrics.compare(each, truth, parts=[part]) for each in answers]
    found = [each for each in compared if not each.bad] or compared
    largest, rms = max(each.max_error for each in found), max(10 ** (-each.snr_db / 20) for each in found)
    return Floor(min(largest, 1.0), min(rms, 1.0))
