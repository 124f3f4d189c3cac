"""What a model does besides answering is found before anything is made of it, and said or refused in one line."""

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


def examined(name: str, fixed_batch: int | None = None) -> ProbeResult:
    with build.with_seed(), torch.no_grad():
        state = build.build(model(name)).module.state_dict()
        return probe.examine(model(name), state, Options(fixed_batch=fixed_batch))


@pytest.mark.parametrize("name", ["Subtracting", "Masking", "ThroughNumpy"])
def test_writing_into_an_input_is_said(name: str) -> None:
    (line,) = examined(name).remarks
    assert line == f"{name} writes into its input input: it is given copies"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Counting", "buffer count changes"),
        ("Steps", "attribute step changes"),
        ("Logging", "attribute seen changes"),
    ],
)
def test_state_that_has_no_part_in_the_answer_is_said(name: str, what: str) -> None:
    (line,) = examined(name).remarks
    assert line == f"{name} keeps state, and its answers do not depend on it: {what} when it runs"


@pytest.mark.parametrize("name", ["Naming", "Caching"])
def test_of_a_model_that_only_answers_nothing_is_said(name: str) -> None:
    found = examined(name)
    assert (found.remarks, found.model.outputs) == ((), (Tensor("logits", ("batch", 4)),))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Averaging", "keeps state: buffer mean changes when it runs, and its answer with it"),
        ("Recurring", "keeps state: attribute state changes when it runs, and"),
        ("Alternating", "keeps state: attribute turn changes when it runs, and its answer with it"),
        ("Initialising", "keeps state: buffer scale changes when it runs, and its answer with it"),
        ("Remembering", "keeps state: attribute first changes when it runs, and then Remembering "),
        ("OutsideItself", "keeps state: something outside its modules changes when it runs, and its answer with it"),
        ("Dropping", "answers the same inputs differently each time"),
        ("Unrepeatable", "is another each time it is built"),
    ],
)
def test_an_answer_that_depends_on_more_than_the_inputs_is_refused(name: str, what: str) -> None:
    with pytest.raises(StageFailed) as refusal:
        examined(name)
    assert str(refusal.value).startswith(f"{name} {what}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Statistics", " (BatchNorm1d without running statistics: norm)"),
        ("LoudestOfAll", ""),
        ("AcrossTheBatch", ""),
        ("HardlyMixing", ""),
        ("Ranking", ""),
    ],
)
def test_cases_that_change_one_anothers_answers_are_refused(name: str, why: str) -> None:
    with pytest.raises(StageFailed) as refusal:
        examined(name)
    assert str(refusal.value) == f"{name}: a case alone gets another answer than in a batch from the model itself{why}"


@pytest.mark.parametrize(
    ("name", "batch"), [("OneAlone", 1), ("OneByShape", 1), ("FourTogether", 4), ("LoudestOfAll", 3)]
)
def test_a_model_that_takes_one_batch_alone_has_it_fixed(name: str, batch: int) -> None:
    found = examined(name, batch)
    assert found.model.inputs[0].shape == (batch, 16)
    assert found.model.outputs[0].shape == (batch, 4)
    assert found.remarks[-1] == f"{name} takes no batch but {batch}: exported with that batch"


def test_a_model_that_takes_any_batch_keeps_it_free_where_one_is_asked_for() -> None:
    assert examined("Naming", 1).model.inputs[0].shape == ("batch", 16)


@pytest.mark.parametrize("name", ["OneAlone", "OneByShape"])
def test_that_one_batch_would_do_is_the_remedy(name: str) -> None:
    with pytest.raises(StageFailed) as refusal:
        examined(name)
    assert "--batch 1" in refusal.value.remedy


def test_the_weights_are_those_before_any_probe_and_golden_inputs_are_nobodys_to_write(tmp_path: Path) -> None:
    for name in ("Counting", "Subtracting"):
        run = deploytool.export(
            f"{OWN / 'impure.py'}:{name}", inputs=[(16,)], quick=True, to="onnx", out=tmp_path / name
        ).check()
        weights = tmp_path / name / "load" / "weights.safetensors"
        module, told = eager.load_module(weights), weights_file.definition(weights)
        assert int(dict(module.named_buffers()).get("count", torch.tensor(0))) == 0
        sample = golden.read(tmp_path / name / "golden" / "golden.npz")
        assert any(np.abs(array).max() > 0 for array in sample.inputs.values())
        assert run.onnx is not None
        (got,) = ort.InferenceSession(run.onnx).run(None, dict(sample.inputs))
        given = {key: array.astype(np.float64) for key, array in sample.inputs.items()}["input"]
        seen = (given - 0.5) * 2 if name == "Subtracting" else given
        weight, bias = (part.double().numpy() for part in module.state_dict().values() if part.is_floating_point())
        np.testing.assert_allclose(got, seen @ weight.T + bias, atol=1e-5)
        assert told.outputs[0].name == "logits"
        assert sample.noise.fp32.max_error < 1e-5


def test_a_fixed_batch_goes_down_the_whole_road_and_into_a_bundle(tmp_path: Path) -> None:
    run = deploytool.export(
        f"{OWN / 'impure.py'}:FourTogether", inputs=[(16,)], quick=True, batch=4, pack=True, out=tmp_path / "run"
    ).check()
    assert run.bundle is not None
    for graph in (run.onnx, run.fp16):
        assert graph is not None
        session = ort.InferenceSession(graph)
        assert [end.shape for end in (*session.get_inputs(), *session.get_outputs())] == [[4, 16], [4, 4]]
