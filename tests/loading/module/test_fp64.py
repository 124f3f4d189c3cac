"""Tests of the FP64 reference for models whose code requests FP32."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import deploytool
from deploytool.backends import eager
from deploytool.data import golden
from deploytool.errors import StageFailed
from deploytool.loading.module import build, fp64
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
    module = build.build(model(name)).module
    vector = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    for _ in range(2):
        logits = eager.make_session(module, model(name), double=True)(input=vector)["logits"]
        assert logits.dtype == np.float64
        # an attribute made with linspace was already rounded to FP32
        np.testing.assert_allclose(logits, fp32_only.truth(vector), atol=1e-6)
        rebuilt = eager.make_session(build.build(model(name)).module, model(name), double=True)
        np.testing.assert_array_equal(logits, rebuilt(input=vector)["logits"])
    fp32_logits = eager.make_session(build.build(model(name)).module, model(name))(input=vector)["logits"]
    assert np.abs(logits - fp32_logits).max() > 0


def test_sums_with_an_attribute_are_computed_in_fp64() -> None:
    module = build.build(model("Attribute")).module
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
        eager.call_module(Cast(), model, inputs, double=True)
    assert "x.to(self.weight.dtype)" in failed.value.remedy


class Attention(nn.Module):
    """Weights of every kind: used by another module than their own, shared, in lists, scripted, and written into."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.recur = nn.GRU(16, 16, batch_first=True)
        self.norm = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
        self.scales = nn.ParameterList([torch.linspace(0.1, 1, 16), torch.linspace(1, 2, 16)])
        self.head = nn.Linear(16, 16, bias=False)
        self.product = _Product()
        self.register_buffer("total", torch.full((16,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.attend(x, x, x)[0]) * self.scales[0] + self.scales[1]
        y = self.product(self.recur(x)[0])
        self.total += y.detach().sum((0, 1)) / 3
        return self.head(y) + nn.functional.linear(y, self.head.weight) + self.total  # type: ignore[no-any-return]


class _Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 256).reshape(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _scripted(x, self.weight)  # type: ignore[no-any-return]  # a scripted function


def _multiply(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.matmul(x, weight)  # their dtypes must be equal


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # all of torch.jit is deprecated
    _scripted = torch.jit.script(_multiply)


def test_answers_are_those_of_a_module_that_is_fp64_as_a_whole() -> None:
    torch.manual_seed(0)
    narrow = Attention().eval().requires_grad_(False)
    wide, x = copy.deepcopy(narrow).double(), torch.randn(2, 5, 16, dtype=torch.float64)
    for _ in range(2):  # the second run reads what the first one wrote
        answers = []
        for module in (narrow, wide):
            with torch.no_grad(), fp64.run(module):
                answers.append(module(x))
        assert answers[0].dtype == torch.float64
        assert torch.equal(*answers)
    weights = {name: weight.dtype for name, weight in narrow.state_dict().items()}
    assert {name for name, dtype in weights.items() if dtype == torch.float64} == {"total"}  # written into


def test_only_modules_that_run_have_fp64_weights() -> None:
    seen: list[tuple[torch.dtype, torch.dtype]] = []

    class Seen(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch._C.DisableTorchFunction():
                seen.append((first.weight.dtype, second.weight.dtype))
            if len(seen) == 3:
                raise KeyboardInterrupt
            return super().forward(x)

    first, second = Seen(4, 4), Seen(4, 4)
    layers = nn.Sequential(first, second).requires_grad_(False)
    before = first.weight.clone(), second.weight.clone()
    with fp64.run(layers):
        layers(torch.ones(1, 4))
    with pytest.raises(KeyboardInterrupt), fp64.run(layers):
        layers(torch.ones(1, 4))
    wide, narrow = torch.float64, torch.float32
    assert seen == [(wide, narrow), (narrow, wide), (wide, narrow)]
    assert torch.equal(first.weight, before[0])
    assert torch.equal(second.weight, before[1])
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in layers)
