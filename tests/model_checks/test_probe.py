"""Tests of the probe: side effects become remarks, and models that no exported file can reproduce are errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

import deploytool
from deploytool.backends import eager
from deploytool.data import golden
from deploytool.errors import StageFailed
from deploytool.loading import weights_file
from deploytool.loading.module import build
from deploytool.model_checks import probe
from deploytool.model_checks.probe import ProbeResult
from deploytool.spec import Model, Options, Tensor
from tests.user_model_export import OWN

VECTOR = (Tensor("input", ("batch", 16)),)


def model(name: str) -> Model:
    return Model(name, f"{OWN / 'impure.py'}:{name}", inputs=VECTOR, outputs=())


def examine(name: str, fixed_batch: int | None = None) -> ProbeResult:
    with build.with_seed(), torch.no_grad():
        state = build.build(model(name)).module.state_dict()
        return probe.examine(model(name), state, Options(fixed_batch=fixed_batch))


@pytest.mark.parametrize("name", ["Subtracting", "Masking", "ThroughNumpy"])
def test_writing_into_an_input_is_a_remark(name: str) -> None:
    (remark,) = examine(name).remarks
    assert remark.startswith(f"{name} writes into its input input")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Counting", "buffer count changes"),
        ("Steps", "attribute step changes"),
        ("Logging", "attribute seen changes"),
    ],
)
def test_state_that_does_not_affect_the_outputs_is_a_remark(name: str, change: str) -> None:
    (remark,) = examine(name).remarks
    assert remark.startswith(f"{name} keeps state that does not affect its outputs")
    assert change in remark


@pytest.mark.parametrize("name", ["Naming", "Caching"])
def test_a_pure_model_has_no_remarks(name: str) -> None:
    result = examine(name)
    assert (result.remarks, result.model.outputs) == ((), (Tensor("logits", ("batch", 4)),))


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("Averaging", "keeps state that affects its outputs: buffer mean changes"),
        ("Recurring", "keeps state.*: attribute state changes when it runs"),
        ("Alternating", "keeps state that affects its outputs: attribute turn changes"),
        ("Initialising", "keeps state that affects its outputs: buffer scale changes"),
        ("Remembering", "keeps state: attribute first changes when it runs, and then Remembering "),
        ("OutsideItself", "keeps state that affects its outputs: something outside its modules changes"),
        ("Dropping", "returns different outputs for the same inputs"),
        ("Unrepeatable", "differs each time it is built"),
    ],
)
def test_outputs_that_depend_on_more_than_the_inputs_are_an_error(name: str, cause: str) -> None:
    with pytest.raises(StageFailed, match=f"^{name} {cause}") as caught:
        examine(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("Statistics", " (BatchNorm1d without running statistics: norm)"),
        ("MaxOfBatch", ""),
        ("SoftmaxOverBatch", ""),
        ("SlightlyMixing", ""),
        ("Ranking", ""),
    ],
)
def test_outputs_that_depend_on_other_cases_are_an_error(name: str, cause: str) -> None:
    with pytest.raises(StageFailed) as caught:
        examine(name)
    assert str(caught.value) == f"{name}: the outputs of a case depend on the other cases of its batch{cause}"


@pytest.mark.parametrize(
    ("name", "batch"), [("SingleCase", 1), ("SingleCaseByShape", 1), ("BatchOfFour", 4), ("MaxOfBatch", 3)]
)
def test_a_model_that_accepts_one_batch_size_has_it_fixed(name: str, batch: int) -> None:
    result = examine(name, batch)
    assert result.model.inputs[0].shape == (batch, 16)
    assert result.model.outputs[0].shape == (batch, 4)
    assert f"only batch size {batch}" in result.remarks[-1]


def test_a_model_that_accepts_any_batch_size_keeps_a_dynamic_batch() -> None:
    assert examine("Naming", 1).model.inputs[0].shape == ("batch", 16)


@pytest.mark.parametrize("name", ["SingleCase", "SingleCaseByShape"])
def test_a_fixed_batch_is_the_remedy_where_it_helps(name: str) -> None:
    with pytest.raises(StageFailed) as caught:
        examine(name)
    assert "--batch 1" in caught.value.remedy


@pytest.mark.integration
def test_probing_changes_neither_weights_nor_golden_inputs(tmp_path: Path) -> None:
    for name in ("Counting", "Subtracting"):
        run = deploytool.export(
            f"{OWN / 'impure.py'}:{name}", inputs=[(16,)], quick=True, to="onnx", out=tmp_path / name
        ).check()
        weights = tmp_path / name / "load" / "weights.safetensors"
        module, definition = eager.load_module(weights), weights_file.definition(weights)
        assert int(dict(module.named_buffers()).get("count", torch.tensor(0))) == 0
        sample = golden.read(tmp_path / name / "golden" / "golden.npz")
        assert any(np.abs(array).max() > 0 for array in sample.inputs.values())
        assert run.onnx is not None
        (logits,) = ort.InferenceSession(run.onnx).run(None, dict(sample.inputs))
        vector = {key: array.astype(np.float64) for key, array in sample.inputs.items()}["input"]
        shifted = (vector - 0.5) * 2 if name == "Subtracting" else vector
        weight, bias = (part.double().numpy() for part in module.state_dict().values() if part.is_floating_point())
        np.testing.assert_allclose(logits, shifted @ weight.T + bias, atol=1e-5)
        assert definition.outputs[0].name == "logits"
        assert sample.noise.fp32.max_error < 1e-5


@pytest.mark.integration
def test_a_fixed_batch_passes_the_whole_pipeline_into_a_bundle(tmp_path: Path) -> None:
    run = deploytool.export(
        f"{OWN / 'impure.py'}:BatchOfFour", inputs=[(16,)], quick=True, batch=4, pack=True, out=tmp_path / "run"
    ).check()
    assert run.bundle is not None
    for graph in (run.onnx, run.fp16):
        assert graph is not None
        session = ort.InferenceSession(graph)
        assert [tensor.shape for tensor in (*session.get_inputs(), *session.get_outputs())] == [[4, 16], [4, 4]]
