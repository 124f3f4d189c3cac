"""Records the corners of a run for its bundle: their cases, and how far sound artifacts may be from the answers there.

The noise of the source model is measured at every corner, whether the artifacts of the run need it or not: a device may
run an engine that this machine cannot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from deploytool.data import golden
from deploytool.data.golden import Golden, Perturbation
from deploytool.errors import StageFailed
from deploytool.parity import fp8_answers, int8_answers
from deploytool.parity.metrics import Tolerances
from deploytool.parity.shape_corners import Corner, ToleranceAt
from deploytool.results import corners
from deploytool.results.corners import RecordedAnswers, RecordedCorner
from deploytool.results.output_parts import OutputPart
from deploytool.results.report import Limits
from deploytool.rewrites.graph import storage
from deploytool.spec import Precision


def write(
    folder: Path,
    found: Iterable[Corner],
    tolerance_at: ToleranceAt,
    quantised: Mapping[Path, Precision],
    sample: Golden,
) -> tuple[RecordedCorner, ...]:
    """Writes the cases of each corner of sizes into `folder`, with the answers of the `quantised` graphs.

    Where the noise cannot be measured, or a graph not be run as quantised, a corner has no tolerances or answers of its
    own: the golden tolerances decide, and INT8 and FP8 are not compared there.
    """
    records = []
    for number, corner in enumerate(each for each in found if each.sizes):
        file = f"corner_{number}.npz"
        corner.write(folder / file)
        limits, answers = dict[str, Limits](), dict[str, RecordedAnswers]()
        with suppress(StageFailed):
            limits |= _by_precision(tolerance_at(corner.name, corner.inputs))
        for graph, precision in quantised.items():
            with suppress(StageFailed):
                file_of_answers = f"corner_{number}_{precision}_{graph.stem}.npz"
                answers[corners.key(graph)] = _answers(folder / file_of_answers, graph, precision, corner, sample)
        records.append(RecordedCorner(corner.sizes, file, limits, answers))
    return tuple(records)


def _by_precision(tolerances: Tolerances) -> Mapping[str, Limits]:
    measured = (Precision.FP32, Precision.FP16, *([Precision.BF16] if tolerances.bf16 else []))
    return {precision.value: tolerances.of(precision) for precision in measured}


def _answers(file: Path, graph: Path, precision: Precision, corner: Corner, sample: Golden) -> RecordedAnswers:
    """Writes what a graph in INT8 or FP8 answers at a corner, and measures how far kernels may be from it."""
    model, emulation = storage.load(graph), fp8_answers if precision is Precision.FP8 else int8_answers
    recorded = emulation.record(model, corner.inputs)
    golden.write_answers(file, recorded)
    return RecordedAnswers(file.name, emulation.limits(model, recorded, _sample_at(corner, sample)))


def _sample_at(corner: Corner, sample: Golden) -> Golden:
    """The golden sample with the inputs of a corner; whole outputs replace parts that do not fit."""
    noise = sample.noise
    if not all(each.part.fits(corner.answers[each.part.output].shape) for each in noise.parts):
        whole = (
            OutputPart(name, labels=not np.issubdtype(array.dtype, np.floating))
            for name, array in corner.answers.items()
        )
        noise = replace(noise, parts=tuple(Perturbation(part, noise.fp32, noise.fp16) for part in whole))
    return replace(sample, inputs=corner.inputs, noise=noise)
