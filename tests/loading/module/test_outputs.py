"""Tests of naming outputs: every tensor of a nested result gets a name derived from its keys and positions."""

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
from tests.user_models import structured_outputs

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
def test_names_are_derived_from_keys_and_positions(name: str) -> None:
    named = outputs.flatten(getattr(structured_outputs, name)()(VECTOR), ["vector"])
    assert (list(named.tensors), named.others) == (NAMES[name], {})


def test_a_single_tensor_without_a_key_has_the_default_name() -> None:
    for made in (VECTOR, (VECTOR,), [[VECTOR]], (None, VECTOR)):
        assert list(outputs.flatten(made).tensors) == ["logits"]
    assert list(outputs.flatten({"out": VECTOR}).tensors) == ["out"]


def test_other_values_are_listed_with_their_types() -> None:
    named = outputs.flatten(structured_outputs.Mixed()(VECTOR))
    assert named.others == {"size": "int", "names.0": "str", "names.1": "str", "done": "bool"}
    assert not outputs.flatten("text").tensors
    assert list(outputs.flatten(structured_outputs.Endless()(VECTOR)).tensors) == ["logits"]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        *((name, "torchscript") for name in ("Past", "HuggingFace", "Holes")),
        *((name, "dynamo") for name in ("Dataclass", "SameTwice")),
        *(pytest.param(name, "torchscript", marks=pytest.mark.sweep) for name in ("Dataclass", "SameTwice")),
        *(pytest.param(name, "dynamo", marks=pytest.mark.sweep) for name in ("Past", "HuggingFace", "Holes")),
    ],
)
def test_both_exporters_use_these_names(name: str, exporter: str, tmp_path: Path) -> None:
    run = export(name, tmp_path, exporter=exporter).check()
    check_graph(run.onnx, tmp_path, NAMES[name])


@pytest.mark.integration
def test_the_graph_has_only_the_selected_outputs(tmp_path: Path) -> None:
    run = export("Past", tmp_path, outputs=["past.1.key", "logits"]).check()
    check_graph(run.onnx, tmp_path, ["past.1.key", "logits"])


def test_a_cache_of_keys_and_values_is_no_output() -> None:
    named = outputs.flatten(structured_outputs.Decoder()(VECTOR))
    assert (list(named.tensors), named.others) == (["mask"], {"past_key_values": "Cache"})


@pytest.mark.integration
def test_an_output_without_a_batch_is_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"^structured_outputs_Scalar .*\(\) for a batch of 2") as caught:
        export("Scalar", tmp_path, outputs=["mask", "loss"])
    assert "--output" in caught.value.remedy
    run = export("Scalar", tmp_path).check()
    check_graph(run.onnx, tmp_path, ["mask"])
    assert any("left out" in remark for remark in run.report.remarks)


@pytest.mark.integration
def test_an_unknown_output_is_refused_with_the_list_of_outputs(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="structured_outputs_Dictionary has no output mark") as caught:
        export("Dictionary", tmp_path, outputs=["mark"])
    assert "mask, label" in caught.value.remedy


@pytest.mark.integration
def test_omitted_values_are_in_the_report(tmp_path: Path) -> None:
    report = export("Mixed", tmp_path).check().report
    (remark,) = (remark for remark in report.remarks if remark.startswith("load: structured_outputs_Mixed "))
    assert remark.endswith(": size (int), names.0 (str), names.1 (str), done (bool)")


@pytest.mark.integration
def test_outputs_that_change_between_runs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        StageFailed, match="structured_outputs_Changing returns mask for some inputs, and label for others"
    ):
        export("Changing", tmp_path)


def export(
    name: str, folder: Path, *, exporter: str = "torchscript", outputs: list[str] | None = None
) -> deploytool.Run:
    return deploytool.export(
        f"{OWN / 'structured_outputs.py'}:{name}",
        inputs=[Tensor("vector", ("batch", 16))],
        outputs=outputs or [],
        exporter=exporter,
        quick=True,
        to="onnx",
        out=folder / "run",
    )


def check_graph(graph: Path | None, folder: Path, names: list[str]) -> None:
    """Checks the output names in order, and the outputs in ONNX Runtime against the FP64 reference."""
    assert graph is not None
    sample = golden.read(folder / "run" / "golden" / "golden.npz")
    session = ort.InferenceSession(graph)
    assert [output.name for output in session.get_outputs()] == names
    assert [tensor.name for tensor in session.get_inputs()] == ["vector"]
    for name, output in zip(names, session.run(names, dict(sample.inputs)), strict=True):
        np.testing.assert_allclose(output, sample.reference[name], atol=1e-5)
