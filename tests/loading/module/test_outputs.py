"""Outputs as they are: every tensor under a name that follows from where it stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

import deploytool
from deploytool.data import golden
from deploytool.errors import BadInput, StageFailed
from deploytool.loading.module import outputs
from deploytool.spec import Tensor
from tests.user_model_export import OWN
from tests.user_models import structured

VECTOR = torch.arange(32.0).reshape(2, 16)
NAMES = {
    "Dictionary": ["mask", "label"],
    "Past": ["logits", "past.0.key", "past.0.value", "past.1.key", "past.1.value"],
    "Dataclass": ["boxes", "scores"],
    "Named": ["mask", "label"],
    "OldNamed": ["output_0.first", "output_0.second"],
    "HuggingFace": ["logits", "hidden.0", "hidden.1"],
    "Space": ["mask", "inner.label"],
    "Holes": ["output_0", "output_2.0"],
    "OddNames": ["my_mask", "my_mask_2", "vector_out", "0"],
    "SameTwice": ["one", "two", "three"],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_follows_from_the_place(name: str) -> None:
    found = outputs.flatten(getattr(structured, name)()(VECTOR), ["vector"])
    assert (list(found.tensors), found.others) == (NAMES[name], {})


def test_a_lone_tensor_keeps_the_usual_name_however_it_is_wrapped_in_places() -> None:
    for made in (VECTOR, (VECTOR,), [[VECTOR]], (None, VECTOR)):
        assert list(outputs.flatten(made).tensors) == ["logits"]
    assert list(outputs.flatten({"out": VECTOR}).tensors) == ["out"]


def test_what_is_no_tensor_is_named_with_its_type() -> None:
    found = outputs.flatten(structured.Mixed()(VECTOR))
    assert found.others == {"size": "int", "names.0": "str", "names.1": "str", "done": "bool"}
    assert not outputs.flatten("text").tensors
    assert list(outputs.flatten(structured.Endless()(VECTOR)).tensors) == ["logits"]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["Past", "Dataclass", "HuggingFace", "Holes", "SameTwice"])
def test_both_exporters_make_a_graph_with_these_outputs(name: str, exporter: str, tmp_path: Path) -> None:
    run = export(name, tmp_path, exporter=exporter).check()
    check_graph(run.onnx, tmp_path, NAMES[name])


def test_outputs_are_chosen_by_name_and_the_others_are_not_in_the_graph(tmp_path: Path) -> None:
    run = export("Past", tmp_path, outputs=["past.1.key", "logits"]).check()
    check_graph(run.onnx, tmp_path, ["past.1.key", "logits"])


def test_an_output_without_a_batch_is_refused_until_others_are_chosen(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"structured_Scalar gives a tensor \(\) for a batch of 2") as refusal:
        export("Scalar", tmp_path)
    assert "--output" in refusal.value.remedy
    export("Scalar", tmp_path, outputs=["mask"]).check()


def test_a_wrong_name_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="structured_Dictionary has no output mark") as refusal:
        export("Dictionary", tmp_path, outputs=["mark"])
    assert refusal.value.remedy == "its outputs are: mask, label"


def test_what_is_left_out_is_in_the_report(tmp_path: Path) -> None:
    report = export("Mixed", tmp_path).check().report
    left = "size (int), names.0 (str), names.1 (str), done (bool)"
    assert f"load: structured_Mixed gives more than tensors, which is left out: {left}" in report.remarks


def test_outputs_that_come_and_go_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="structured_Changing gives mask this time, and label at others"):
        export("Changing", tmp_path)


def export(
    name: str, folder: Path, *, exporter: str = "torchscript", outputs: list[str] | None = None
) -> deploytool.Run:
    return deploytool.export(
        f"{OWN / 'structured.py'}:{name}",
        inputs=[Tensor("vector", ("batch", 16))],
        outputs=outputs or [],
        exporter=exporter,
        quick=True,
        to="onnx",
        out=folder / "run",
    )


def check_graph(graph: Path | None, folder: Path, names: list[str]) -> None:
    """ONNX Runtime's own answers to the golden inputs against the FP64 ones, in this order."""
    assert graph is not None
    sample = golden.read(folder / "run" / "golden" / "golden.npz")
    session = ort.InferenceSession(graph)
    assert [output.name for output in session.get_outputs()] == names
    assert [given.name for given in session.get_inputs()] == ["vector"]
    for name, got in zip(names, session.run(names, dict(sample.inputs)), strict=True):
        np.testing.assert_allclose(got, sample.reference[name], atol=1e-5)
