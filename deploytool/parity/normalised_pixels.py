"""Checks that a model that takes pixels answers as the model itself does for images that the host normalises."""

from __future__ import annotations

from pathlib import Path

from deploytool.backends import eager
from deploytool.data import normalised_inputs, pixel_inputs
from deploytool.data.golden import Arrays, Noise
from deploytool.errors import ParityFailed
from deploytool.loading import weights_file
from deploytool.parity import metrics
from deploytool.parity.replay import SMALL_BATCHES, replay
from deploytool.results import verdict

_AGAINST = "images that the host normalises"


def check(weights: Path, inputs: Arrays, outputs: Arrays, noise: Noise, ties: Arrays) -> float:
    """The error of the FP32 answers `outputs` to pixels, relative to the largest one.

    The expected answers are those of the model of the weights file without its normalisation. Raises ParityFailed if
    the difference exceeds the tolerance that follows from the noise in FP32.
    """
    model = weights_file.definition(weights)
    own, images = pixel_inputs.original(model), normalised_inputs.make(model, inputs)
    expected = replay(eager.make_session(eager.load_original(weights), own), images, SMALL_BATCHES)
    result = metrics.check(outputs, expected, _AGAINST, metrics.tolerances(noise, {}).fp32, ties)
    if result.broken:
        problem = f"the normalisation in the model deviates: against {_AGAINST}, {verdict.describe_failure(result)}"
        raise ParityFailed(problem, "leave out --io uint8, and report it with the model")
    return result.parity.max_error
