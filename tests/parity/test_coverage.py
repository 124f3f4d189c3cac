from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from torch import nn

from deploytool.backends import eager
from deploytool.data import golden
from deploytool.loading import weights_file
from deploytool.loading.module import build
from deploytool.parity import coverage
from deploytool.spec import Model, Tensor
from tests.user_model_export import OWN


def test_every_channel_is_observed_and_the_answers_are_the_models(finished: Path) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    weights = finished / "load" / "weights.safetensors"
    observed = coverage.measure(eager.load_module(weights), weights_file.definition(weights), sample.inputs)
    answers, extremes = observed.answers, observed.extremes
    np.testing.assert_allclose(answers["logits"], sample.outputs["logits"], atol=1e-6)
    assert len(extremes) == len(sample.labels)
    # maximum and minimum of 3 batch norms, 3 convolutions and 2 ReLUs of 8 channels, a pool of 16, 10 classes
    assert extremes.shape[1] == 2 * (3 * 8 + 3 * 8 + 2 * 8 + 16 + 10)
    assert (extremes >= 0).all()
    assert extremes.any()


def test_the_cases_that_add_most_coverage_are_chosen() -> None:
    extremes = np.array([[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0.5]])
    assert coverage.choose(extremes, 1, []) == [1]
    assert sorted(coverage.choose(extremes, 3, [])) == [0, 1, 3]
    assert sorted(coverage.choose(extremes, 9, [])) == [0, 1, 2, 3]


def test_preferred_cases_are_chosen_first() -> None:
    extremes = np.array([[1.0, 0, 0], [0, 1, 1], [0, 0, 1]])
    assert coverage.choose(extremes, 1, [2]) == [2]
    assert coverage.choose(extremes, 2, [0, 2]) == [0, 2]
    assert coverage.choose(extremes, 3, [2]) == [2, 0, 1]


def test_without_activations_cases_are_chosen_in_order() -> None:
    assert coverage.choose(np.zeros((3, 4)), 2, []) == [0, 1]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("Windows", 4 + 3),
        ("Positions", 3),
        ("Shared", 3 * 16),
        ("NewNorm", 4),
        ("Spectral", 4 + 3),
        ("Sequence", 4 + 1 + 1),
        ("Idle", 4),
        ("Whole", 4),
    ],
)
def test_the_batch_axis_is_found(name: str, channels: int) -> None:
    observed = observe(name)
    assert observed.remark is None
    assert observed.extremes.shape == (11, 2 * channels)
    assert observed.extremes.any()


def test_the_extremes_of_windows_are_those_of_their_own_case() -> None:
    module, inputs = built("Windows")
    inputs["input"][5] *= 100
    observed = coverage.measure(module, model("Windows"), inputs)
    weight, bias = (each.numpy() for each in module.get_submodule("inner").state_dict().values())
    windows = inputs["input"].reshape(11, 4, 4) @ weight.T + bias
    np.testing.assert_allclose(observed.extremes[:, :4], windows.max(1).clip(0), rtol=1e-4, atol=1e-5)
    assert observed.extremes[:, :4].max(1).argmax() == 5


def test_the_parts_of_fused_attention_are_observed() -> None:
    assert observe("Attention").extremes.shape[1] > 2 * 20


def test_a_model_that_cannot_be_observed_gives_a_remark_and_its_answers() -> None:
    observed = observe("Functional")
    assert observed.extremes.shape == (11, 0)
    assert observed.answers["logits"].shape == (11, 4)
    assert observed.remark is not None
    assert observed.remark.startswith(
        "golden cases were not chosen by coverage: no module output has a batch dimension"
    )
    assert coverage.choose(observed.extremes, 3, []) == [0, 1, 2]


def observe(name: str) -> coverage.ChannelCoverage:
    module, inputs = built(name)
    observed = coverage.measure(module, model(name), inputs)
    plain = eager.make_session(module, model(name))(**inputs)
    np.testing.assert_allclose(observed.answers["logits"], plain["logits"], atol=1e-5)
    return observed


def built(name: str) -> tuple[nn.Module, dict[str, npt.NDArray[np.float32]]]:
    vector = np.random.default_rng(1).standard_normal((11, 16)).astype(np.float32)
    return build.build(model(name)).module.requires_grad_(False), {"input": vector}


def model(name: str) -> Model:
    vector, logits = (Tensor("input", ("batch", 16)),), (Tensor("logits", ("batch", 4)),)
    return Model(name, f"{OWN / 'hooked.py'}:{name}", inputs=vector, outputs=logits)
