"""Tests of user models: ten architectures through the whole pipeline, and the errors for unsupported models."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import cast

import onnx
import pytest

from deploytool.cli import params
from deploytool.errors import BadInput, StageFailed
from deploytool.loading import catalog
from deploytool.pipeline import runner
from deploytool.results import verdict
from deploytool.spec import Job, Stage, Status
from deploytool.stages.registry import STAGES, Contract
from tests.conftest import FREE, QUICK
from tests.user_model_export import ARCHITECTURES, OWN, Walk


@pytest.mark.parametrize(
    ("name", "exporter"),
    [(name, "torchscript") for name in ARCHITECTURES]
    + [
        ("two_inputs:Captioned", "dynamo"),
        *(pytest.param(name, "dynamo", marks=pytest.mark.sweep) for name in ("vit:ViT", "convolutional:Sharpen")),
    ],
)
def test_an_architecture_passes_the_whole_pipeline(name: str, exporter: str, walk: Walk, tmp_path: Path) -> None:
    written = walk(name, ARCHITECTURES[name], exporter)
    assert verdict.failed_lines(written) == ()
    statuses = {comparison.stage: comparison.status for comparison in written.comparisons}
    assert statuses.pop(Stage.BUILD) == Status.BUILT_NOT_RUN
    assert set(statuses.values()) == {Status.MEASURED}
    assert (tmp_path / "run" / "build" / "model.plan").stat().st_size > 10_000
    (engine,) = written.engines
    assert engine.layers["HALF"] > engine.layers["FLOAT"]


@pytest.mark.parametrize(
    ("name", "inputs", "kept", "remark"),
    [
        ("vit:ViT", "3x32x32", "torchscript", None),
        ("unsupported:Guarded", "16", "torchscript", None),
        ("unsupported:Spectrum", "16", "dynamo", "the torchscript exporter rejects the model: .*'aten::fft_rfft'"),
        (
            "grouped_attention:Encoder",
            "tokens=16:int64:50",
            "dynamo",
            "the torchscript exporter rejects the model: .*enable_gqa",
        ),
    ],
)
def test_auto_takes_the_first_exporter_whose_graph_holds(
    name: str, inputs: str, kept: str, remark: str | None, walk: Walk, tmp_path: Path
) -> None:
    written = walk(name, [inputs], "auto", engine=False)
    assert verdict.failed_lines(written) == ()
    assert json.loads((tmp_path / "run" / "export" / "receipt.json").read_text())["notes"]["exporter"] == kept
    lines = [line for line in written.remarks if line.startswith("export: ")]
    if remark is None:
        assert lines == []
    else:
        (line,) = lines
        assert re.match(rf"export: used the graph of the {kept} exporter: {remark}", line)


@pytest.mark.parametrize(("name", "inputs"), [("CropByInt", "3xHxW"), ("BatchByLen", "3x32x32")])
def test_auto_rejects_the_exporter_that_bakes_in_a_size(name: str, inputs: str, tmp_path: Path) -> None:
    tensors = params.tensors([inputs])
    sizes = FREE if "H" in inputs else {}
    job = Job(
        catalog.find(f"{OWN}/baked_sizes.py:{name}", tensors), dataclasses.replace(QUICK, exporter="auto", sizes=sizes)
    )
    notes = list(runner.run(job, (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT), tmp_path / "run"))[-1].notes
    assert notes["exporter"] == "dynamo"
    assert re.search(r"the torchscript exporter fixes values at baked_sizes.py:\d+", str(notes["remarks"]))


def test_auto_reports_the_fixed_size_if_both_graphs_are_wrong(walk: Walk) -> None:
    written = walk("baked_sizes:LouderWhenLarge", ["3xHxW"], "auto", engine=False)
    (line, *_) = verdict.failed_lines(written)
    assert re.match(r"baked_sizes.py:\d+: a branch was fixed at export .* at H 64", line)


def test_inputs_and_outputs_keep_names_dtypes_and_dynamic_sizes(walk: Walk, tmp_path: Path) -> None:
    def described(model: onnx.ModelProto) -> dict[str, list[int | str]]:
        return {
            value.name: [value.type.tensor_type.elem_type]
            + [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.output)
        }

    walk("two_inputs:Captioned", ARCHITECTURES["two_inputs:Captioned"], engine=False)
    assert described(onnx.load(tmp_path / "run" / "fp16" / "model.onnx")) == {
        "image": [onnx.TensorProto.FLOAT, "batch", 3, 32, 32],
        "tokens": [onnx.TensorProto.INT64, "batch", 16],
        "logits": [onnx.TensorProto.FLOAT, "batch", 10],
    }
    walk("two_outputs:Detector", ["3x32x32"], engine=False)
    assert described(onnx.load(tmp_path / "run" / "export" / "model.onnx")) == {
        "input": [onnx.TensorProto.FLOAT, "batch", 3, 32, 32],
        "output_0": [onnx.TensorProto.FLOAT, "batch", 10],
        "output_1": [onnx.TensorProto.FLOAT, "batch", 1, 8, 8],
    }
    walk("convolutional:Sharpen", ["image=3xHxW"], engine=False)
    assert described(onnx.load(tmp_path / "run" / "export" / "model.onnx")) == {
        "image": [onnx.TensorProto.FLOAT, "batch", 3, "H", "W"],
        "logits": [onnx.TensorProto.FLOAT, "batch", 1, "logits_2", "logits_3"],
    }


@pytest.mark.parametrize("name", ["Tied", "Listing", "Upcasting", "Drawing", "Lazy"])
def test_an_uncommon_model_is_supported(name: str, walk: Walk) -> None:
    assert verdict.failed_lines(walk(f"unusual:{name}", ["16"])) == ()


@pytest.mark.parametrize(
    ("name", "exporter", "line"),
    [
        ("Spectrum", "torchscript", "the torchscript exporter rejects the model: .*'aten::fft_rfft'"),
        ("Spectrum", "dynamo", "TensorRT rejects DFT node '/model/DFT_"),
        ("Determinant", "torchscript", "TensorRT rejects Det node '/Det'"),
        ("Dropping", "torchscript", "unsupported_Dropping returns different outputs"),
        ("Brief", "torchscript", "unsupported_Brief returns a tensor of bfloat16"),
        ("Remembering", "torchscript", "unsupported_Remembering has a dict in its state: _extra_state"),
        ("NotANumber", "torchscript", "the model returns NaN"),
        ("raises", "torchscript", "raises KeyError: .no width 3"),
        ("exits", "torchscript", "raises SystemExit: usage: train.py"),
        ("text", "torchscript", "returns a str$"),
        ("scripted", "torchscript", "returns TorchScript, which has no Python code to export$"),
        ("exported", "torchscript", "returns a program of torch.export, which has no Python code to export$"),
        ("on_meta", "torchscript", "weight is on the meta device$"),
        ("Derivative", "torchscript", "no exporter supports|the torchscript exporter rejects"),
    ],
)
def test_the_error_for_an_unsupported_model_names_the_cause(
    name: str, exporter: str, line: str, walk: Walk, tmp_path: Path
) -> None:
    with pytest.raises(StageFailed, match=line) as caught:
        walk(f"unsupported:{name}", ["16"], exporter)
    assert "\n" not in f"{caught.value}{caught.value.remedy}"
    assert all((stage / "receipt.json").is_file() for stage in (tmp_path / "run").glob("*"))


def test_the_remedy_for_weights_in_fp16_names_their_dtype(walk: Walk) -> None:
    with pytest.raises(StageFailed, match="unsupported_fp16_weights does not run") as caught:
        walk("unsupported:fp16_weights", ["16"])
    assert "float16" in caught.value.remedy
    assert ".float()" in caught.value.remedy


def test_a_rejecting_exporter_prints_nothing(walk: Walk, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StageFailed):
        walk("unsupported:Spectrum", ["16"])
    assert capfd.readouterr() == ("", "")


def replace_fp16_worker(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Replaces the worker module that opens the graph in the fp16 stage."""
    contract = dataclasses.replace(STAGES[Stage.FP16], worker=module)
    monkeypatch.setitem(cast("dict[Stage, Contract]", STAGES), Stage.FP16, contract)


def test_a_graph_that_crashes_onnx_runtime_ends_only_a_child_process(
    walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_fp16_worker(monkeypatch, "tests.end_to_end.crashing_worker")
    with pytest.raises(StageFailed, match="the FP16 graph cannot be opened: ONNX Runtime was killed by SIGABRT"):
        walk("unusual:Lazy", ["16"], engine=False)


def test_a_graph_that_crashes_the_optimiser_is_run_without_it(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_fp16_worker(monkeypatch, "tests.end_to_end.crashing_optimiser_worker")
    written = walk("unusual:SequenceFirst", ["4x8"], engine=False)  # crashes the optimiser of ONNX Runtime 1.31
    assert verdict.failed_lines(written) == ()
    assert [comparison.status for comparison in written.comparisons if comparison.stage == "fp16"] == [
        Status.MEASURED
    ] * 3
    assert any("crashes when it optimises this graph" in line for line in written.remarks)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("=16", "--input =16 is not an input"),
        ("my vector=16", "an input is named 'my vector'"),
        ("batch", "'batch' in the shape of input input is not a size"),
    ],
)
def test_an_invalid_declaration_is_refused(text: str, line: str, walk: Walk) -> None:
    with pytest.raises(BadInput, match=line):
        walk("unusual:Lazy", [text], engine=False)


def test_every_user_model_file_is_used() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in OWN.parent.rglob("*.py") if path.parent != OWN)
    assert not [path.stem for path in OWN.glob("*.py") if not re.search(rf"\b{path.stem}(:|\.py\b)", tests)]
