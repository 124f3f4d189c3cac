"""Tests of the FP64 reference for models whose code requests FP32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import deploytool
from deploytool.backends import eager
from deploytool.data import golden
from deploytool.errors import StageFailed
from deploytool.loading.module import build
from deploytool.spec import Model, Tensor
from tests.user_model_export import OWN
from tests.user_models import fp32_only

MODELS = (
    *("Attribute", "Kernel", "Lists", "Global", "Closure", "Casting", "Insisting", "FromNumpy", "Written"),
    *("InAnObject", "ByDevice"),
)


def model(name: str) -> Model:
    vector = (Tensor("input", ("batch", 16)),)
    return Model(name, f"{OWN / 'fp32_only.py'}:{name}", inputs=vector, outputs=(Tensor("logits", ("batch", 4)),))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_requests_fp32_runs_in_fp64(name: str) -> None:
    module = build.build(model(name)).module.double()
    vector = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    for _ in range(2):
        logits = eager.make_session(module, model(name), double=True)(input=vector)["logits"]
        assert logits.dtype == np.float64
        # an attribute made with linspace was already rounded to FP32
        np.testing.assert_allclose(logits, fp32_only.truth(vector), atol=1e-6)
        rebuilt = eager.make_session(build.build(model(name)).module.double(), model(name), double=True)
        np.testing.assert_array_equal(logits, rebuilt(input=vector)["logits"])
    fp32_logits = eager.make_session(build.build(model(name)).module, model(name))(input=vector)["logits"]
    assert np.abs(logits - fp32_logits).max() > 0


def test_sums_with_an_attribute_are_computed_in_fp64() -> None:
    module = build.build(model("Attribute")).module.double()
    vector = np.full((1, 16), 1e8, np.float32)
    logits = eager.make_session(module, model("Attribute"), double=True)(input=vector)["logits"]
    shift = torch.linspace(0, 1, 16).double().numpy()
    weight = torch.linspace(-1, 1, 64).reshape(16, 4).double().numpy()
    np.testing.assert_allclose(logits, (vector.astype(np.float64) + shift) @ weight, rtol=1e-12)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["Kernel", "Insisting", "ByDevice"])
def test_a_model_that_requests_fp32_is_exported_with_an_fp64_reference(name: str, tmp_path: Path) -> None:
    run = deploytool.export(
        f"{OWN / 'fp32_only.py'}:{name}", inputs=[(16,)], quick=True, to="onnx", out=tmp_path / "run"
    ).check()
    sample = golden.read(tmp_path / "run" / "golden" / "golden.npz")
    np.testing.assert_allclose(sample.reference["logits"], fp32_only.truth(sample.inputs["input"]), atol=1e-6)
    assert not [remark for remark in run.report.remarks if "FP64" in remark]


@pytest.mark.integration
def test_without_fp64_the_fp32_outputs_are_the_reference_and_a_remark_says_so(tmp_path: Path) -> None:
    run = deploytool.export(
        f"{OWN / 'fp32_only.py'}:FourBytes", inputs=[(16,)], quick=True, to="onnx", out=tmp_path / "run"
    ).check()
    sample = golden.read(tmp_path / "run" / "golden" / "golden.npz")
    np.testing.assert_array_equal(sample.reference["logits"], sample.outputs["logits"])
    assert [remark for remark in run.report.remarks if remark.startswith("golden: the model does not run in FP64")]


def test_the_remedy_for_a_model_that_fails_in_fp64_alone_is_about_its_casts() -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2).half()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.half()).float()  # type: ignore[no-any-return]  # a Module call

    model = Model("cast", "net.py:Cast", inputs=(Tensor("x", ("batch", 4)),))
    inputs = {"x": torch.ones(1, 4)}
    assert eager.call_module(Cast(), model, inputs).shape == (1, 2)
    with pytest.raises(StageFailed) as failed:
        eager.call_module(Cast().double(), model, inputs, double=True)
    assert "x.to(self.weight.dtype)" in failed.value.remedy
