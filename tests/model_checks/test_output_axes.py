"""Outputs whose first axis is not the batch, or that do not vary with it, are told apart and reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

import deploytool
from deploytool.backends import eager
from deploytool.errors import StageFailed
from deploytool.loading.module import build
from deploytool.model_checks import output_axes, probe
from deploytool.model_checks.output_axes import BatchAxis, OutputAxis
from deploytool.model_checks.probe import ProbeResult
from deploytool.spec import Model, Options, Tensor
from tests.user_model_export import OWN
from tests.user_models import batch_elsewhere

FILE = OWN / "batch_elsewhere.py"


def model(name: str) -> Model:
    return Model(name, f"{FILE}:{name}", inputs=(Tensor("vector", ("batch", 16)),), outputs=())


def examine(name: str, *outputs: str) -> ProbeResult:
    with build.with_seed(), torch.no_grad():
        return probe.examine(model(name), build.build(model(name)).module.state_dict(), Options(outputs=outputs))


def test_each_kind_of_output_is_told_apart() -> None:
    module, vectors = batch_elsewhere.Mixed(), torch.randn(2, 16)
    with torch.no_grad():
        found = output_axes.find(module(vectors), module(vectors[:1]))
    assert found == {
        "scores": OutputAxis(BatchAxis.FIRST),
        "times": OutputAxis(BatchAxis.ELSEWHERE, 1),
        "mean": OutputAxis(BatchAxis.SHARED),
        "pairs": OutputAxis(BatchAxis.SEVERAL),
        "anchors": OutputAxis(BatchAxis.CONSTANT),
    }
    assert [name for name, axis in found.items() if axis.usable] == ["scores", "times"]


def test_outputs_with_one_answer_for_each_case_are_kept_and_the_others_reported() -> None:
    result = examine("Mixed")
    assert result.model.outputs == (
        Tensor("scores", ("batch", 5)),
        Tensor("times", ("batch", 3, 5), batch_axis=1),
    )
    assert [remark.partition(": ")[2] for remark in result.remarks] == [
        "the batch is axis 1 of times, and the first axis in the exported graphs",
        "mean is left out: it is one result for the whole batch, not one for each case",
        "pairs is left out: more than one of its axes depends on the number of cases",
        "anchors is left out: it is the same for every input",
    ]


def test_an_output_that_is_selected_and_has_no_batch_is_refused() -> None:
    with pytest.raises(StageFailed, match=r"tensor of shape \(5,\) for a batch of 2"):
        examine("Mixed", "scores", "mean")
    assert not examine("Mixed", "scores").remarks


@pytest.mark.integration
@pytest.mark.parametrize(("name", "exporter"), [("Mixed", "torchscript"), ("TimesOnly", "dynamo")])
def test_the_graphs_have_the_batch_first(name: str, exporter: str, tmp_path: Path) -> None:
    run = deploytool.export(
        f"{FILE}:{name}", inputs=[Tensor("vector", ("batch", 16))], exporter=exporter, quick=True, out=tmp_path
    ).check()
    vectors = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    assert run.onnx is not None
    answers = dict(zip(*_run(run.onnx, vectors), strict=True))
    module = eager.load_module(tmp_path / "load" / "weights.safetensors")
    with torch.no_grad():
        expected = module(torch.from_numpy(vectors))
    times = expected["times"] if name == "Mixed" else expected
    np.testing.assert_allclose(answers["times" if name == "Mixed" else "logits"], times.movedim(1, 0), atol=1e-5)
    assert list(answers) == (["scores", "times"] if name == "Mixed" else ["logits"])


def _run(file: Path, vectors: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [output.name for output in session.get_outputs()], session.run(None, {"vector": vectors})
