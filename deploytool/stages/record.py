"""Records the golden sample: images, the model's answers, and the FP64 truth, so that later parity needs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploytool import folders, golden, images, noise, samples, weights_file
from deploytool.artifact import Given, Kind, Notes
from deploytool.backends import Session, eager
from deploytool.errors import BadInput, StageFailed
from deploytool.golden import Arrays, Golden
from deploytool.measure.replay import replay
from deploytool.spec import Job, Model

_CLEAR = 0.01  # of the largest output: far beyond what FP16 may move, so a changed top-1 is a fault and not a tie
_ROUNDS = 6


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes the golden cases: pixels, inputs, FP32 outputs and FP64 outputs, of photographs or of drawn images.

    Raises BadInput if the folder cannot be used, StageFailed if the model answers with NaN or infinite values.
    """
    weights = given.latest(Kind.WEIGHTS).path
    model = weights_file.definition(weights)
    with eager.start(weights) as single, eager.start(weights, double=True) as double:
        pixels, inputs, labels = _photographs(job, model) if job.options.data else _drawn(job, model, single)
        if job.options.cases:
            pixels, inputs, labels = _joined(pixels, inputs, labels, Path(job.options.cases.path))
        outputs, reference = replay(single, inputs), replay(double, inputs)
    if not all(np.isfinite(answer).all() for answer in outputs.values()):
        raise StageFailed("the model itself answers with NaN or infinite values", "check its weights")
    moved = noise.measure(weights, inputs, reference)
    golden.write(out, Golden(pixels, inputs, outputs, reference, labels, model.preprocessing, moved))
    return {"images": len(labels), "smallest_margin": float(_margins(model, outputs).min())}


def _photographs(job: Job, model: Model) -> tuple[images.Pixels, Arrays, npt.NDArray[np.int64]]:
    """The user's photographs as the model's input, with their labels where the folder has classes."""
    assert job.options.data is not None
    tensor, crop = model.inputs[0], model.preprocessing.crop
    if len(model.inputs) != 1 or not tensor.is_image() or tensor.shape[2:] != (crop, crop):
        raise BadInput(f"{model.name} does not take one square image of fixed size", "leave --data out")
    found = folders.read(Path(job.options.data.path), limit=job.options.images, seed=job.options.seed)
    pixels = np.stack([images.fit(images.read(path), model.preprocessing) for path in found.paths])
    labels = np.array(found.labels or [-1] * len(pixels), np.int64)
    return pixels, {tensor.name: images.normalise(pixels, model.preprocessing)}, labels


def _drawn(job: Job, model: Model, session: Session) -> tuple[images.Pixels, Arrays, npt.NDArray[np.int64]]:
    """Drawn cases whose class the model is sure of; the surest, where too few are sure enough."""
    wanted, sizes = job.options.images, samples.sides(job.options.sizes, "typical")
    pixels, inputs, margins = [], [], []
    for attempt in range(_ROUNDS):
        # the calibration batch of `instantiate` has seed + 1: golden images are never among it
        drawn, arrays = samples.draw(model, wanted, (job.options.seed + 1) * 1000 + attempt, sizes)
        pixels.append(drawn)
        inputs.append(arrays)
        margins.append(_margins(model, replay(session, arrays)))
        if (np.concatenate(margins) >= _CLEAR).sum() >= wanted:
            break
    best = np.argsort(-np.minimum(np.concatenate(margins), _CLEAR), kind="stable")[:wanted]
    chosen = {name: np.concatenate([arrays[name] for arrays in inputs])[best] for name in inputs[0]}
    return np.concatenate(pixels)[best], chosen, np.full(wanted, -1)


def _joined(
    pixels: images.Pixels, inputs: Arrays, labels: npt.NDArray[np.int64], more: Path
) -> tuple[images.Pixels, Arrays, npt.NDArray[np.int64]]:
    """The cases with those of a file behind them; raises BadInput if they are of another model."""
    further, arrays = golden.read_cases(more)
    if {name: (array.shape[1:], array.dtype) for name, array in arrays.items()} != {
        name: (array.shape[1:], array.dtype) for name, array in inputs.items()
    }:
        raise BadInput(f"the cases of {more} are no inputs of this model", "give those of a run of the same model")
    joined = {name: np.concatenate([array, arrays[name]]) for name, array in inputs.items()}
    return np.concatenate([pixels, further]), joined, np.append(labels, np.full(len(further), -1))


def _margins(model: Model, answers: Arrays) -> npt.NDArray[np.float64]:
    """The smallest margin of each case over all outputs that are scores of classes."""
    smallest: npt.NDArray[np.float64] = np.min([margin(answers[tensor.name]) for tensor in model.outputs], axis=0)
    return smallest


def margin(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """How far the best class is ahead of the second, for each case, relative to the largest score of all.

    Outputs that are not scores of classes (cases × classes) have no margin to lose: 1.
    """
    if scores.ndim != 2 or scores.shape[1] == 1:
        return np.ones(len(scores))
    ordered = np.sort(scores.astype(np.float64), axis=1)
    ahead: npt.NDArray[np.float64] = (ordered[:, -1] - ordered[:, -2]) / (np.abs(ordered).max() or 1.0)
    return ahead
