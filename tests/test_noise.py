from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from deploytool import golden, noise, samples, weights_file
from deploytool.backends import eager, onnxruntime, rounded
from deploytool.golden import Golden, Noise
from deploytool.measure import parity
from deploytool.measure.replay import replay
from tests.conftest import TINY


@pytest.fixture(scope="module")
def sample(finished: Path) -> Golden:
    return golden.read(finished / "record" / "golden.npz")


def measured(weights: Path, sample: Golden) -> Noise:
    return noise.measure(eager.module(weights), weights_file.definition(weights), sample.inputs, sample.reference).noise


def test_what_is_recorded_is_what_is_measured(finished: Path, sample: Golden) -> None:
    assert measured(finished / "instantiate" / "weights.safetensors", sample) == sample.noise


def test_fp16_is_some_thousand_times_noisier_than_fp32(sample: Golden) -> None:
    assert 2.0**-26 < sample.noise.fp32.max_error < 1e-5
    assert 2.0**-13 < sample.noise.fp16.max_error < 1e-2
    assert sample.noise.fp16.rms > 1000 * sample.noise.fp32.rms


def test_it_is_measured_where_it_is_largest(finished: Path) -> None:
    weights = finished / "instantiate" / "weights.safetensors"
    _, inputs = samples.draw(TINY, 16, 7, {})
    module, model = eager.module(weights), weights_file.definition(weights)
    with eager.start(weights, double=True) as exact:
        given = {name: torch.from_numpy(array) for name, array in inputs.items()}
        moved = parity.deviations(noise._rounded(module, model, given, noise._nearest), replay(exact, inputs))
        order = np.argsort(moved)
        inputs = {name: array[order] for name, array in inputs.items()}
        found = noise.measure(module, model, inputs, replay(exact, inputs)).noise
    assert 2.0**-13 < moved.min() < moved.max() < 1e-2
    assert found.fp16.rms > 0.99 * moved.max() > 1.5 * moved[order[:4]].max()


def test_it_foretells_the_error_of_the_graphs(finished: Path, sample: Golden) -> None:
    with onnxruntime.start(finished / "simplify" / "graph.onnx") as exact:
        single = parity.compare(replay(exact, sample.inputs), sample.reference).max_error
    with rounded.start(finished / "halve" / "graph.onnx") as session:
        half = parity.compare(replay(session, sample.inputs), sample.reference).max_error
    assert sample.noise.fp32.max_error / 5 < single < 5 * sample.noise.fp32.max_error
    assert sample.noise.fp16.max_error / 5 < half < 5 * sample.noise.fp16.max_error


def test_an_overflow_in_fp16_is_no_noise(finished: Path, sample: Golden, tmp_path: Path) -> None:
    weights = finished / "instantiate" / "weights.safetensors"
    module, model = eager.module(weights), weights_file.definition(weights)
    module.get_parameter("stem.0.weight").mul_(1e6)
    module.get_parameter("classifier.weight").mul_(1e-6)
    loud = tmp_path / "weights.safetensors"
    eager.save(module, model, loud)
    with eager.start(loud, double=True) as exact:
        reference = replay(exact, sample.inputs)
    found = measured(loud, dataclasses.replace(sample, reference=reference))
    assert found.fp16.max_error < 1e-2
    assert found.fp32.max_error < 1e-5


@pytest.mark.parametrize("seed", [0, 1])
def test_rounding_at_random_is_right_on_the_average(seed: int) -> None:
    exact = torch.linspace(0.1, 3.0, 1000)
    mean = torch.stack([noise._either(draw)(exact) for draw in range(seed * 100, seed * 100 + 100)]).mean(0)
    nearest = noise._nearest(exact)
    assert float((mean - exact).abs().max()) < float((nearest - exact).abs().max())
    moved = noise._moved(seed)(exact)
    assert 0 < int((moved != exact).sum()) < 1000
    np.testing.assert_allclose(moved, exact, rtol=3e-7)
