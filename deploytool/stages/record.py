"""Records the golden sample: images, the model's answers, and the FP64 truth, so that later parity needs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from deploytool import golden, images
from deploytool.artifact import Given, Kind, Notes
from deploytool.backends import Session, eager
from deploytool.errors import StageFailed
from deploytool.golden import Golden
from deploytool.measure.replay import replay
from deploytool.spec import Job

_CLEAR = 0.01  # of the largest output: far beyond what FP16 may move, so a changed top-1 is a fault and not a tie
_ROUNDS = 6


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes `images` golden cases: pixels, inputs, FP32 outputs and FP64 outputs."""
    weights = given.latest(Kind.WEIGHTS).path
    with eager.start(weights) as single, eager.start(weights, dtype=torch.float64) as double:
        pixels, margins = _decided(job, single)
        inputs = _inputs(job, pixels)
        sample = Golden(pixels, inputs, replay(single, inputs), replay(double, inputs))
    if not all(np.isfinite(answer).all() for answer in sample.outputs.values()):
        raise StageFailed("the model itself answers with NaN or infinite values", "check its weights")
    golden.write(out, sample)
    return {"images": len(pixels), "smallest_margin": float(margins.min())}


def _inputs(job: Job, pixels: images.Pixels) -> dict[str, images.Batch]:
    return {job.model.inputs[0].name: images.normalise(pixels, job.model.preprocessing)}


def _decided(job: Job, session: Session) -> tuple[images.Pixels, npt.NDArray[np.float64]]:
    """Images whose class the model is sure of, with their margins; the surest, where too few are sure enough."""
    height, width = (int(side) for side in job.model.inputs[0].shape[-2:])
    wanted, pixels, margins = job.options.images, [], []
    for attempt in range(_ROUNDS):
        # the calibration batch of `instantiate` has seed + 1: golden images are never among it
        pixels.append(images.dead_leaves(wanted, height, width, (job.options.seed + 1) * 1000 + attempt))
        answers = replay(session, _inputs(job, pixels[-1]))
        margins.append(np.min([margin(answers[tensor.name]) for tensor in job.model.outputs], axis=0))
        if (np.concatenate(margins) >= _CLEAR).sum() >= wanted:
            break
    found, drawn = np.concatenate(margins), np.concatenate(pixels)
    best = np.argsort(-np.minimum(found, _CLEAR), kind="stable")[:wanted]
    return drawn[best], found[best]


def margin(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """How far the best class is ahead of the second, for each case, relative to the largest score of all."""
    ordered = np.sort(scores.reshape(len(scores), -1).astype(np.float64), axis=1)
    if ordered.shape[1] == 1:
        return np.ones(len(ordered))
    ahead: npt.NDArray[np.float64] = (ordered[:, -1] - ordered[:, -2]) / (np.abs(ordered).max() or 1.0)
    return ahead
