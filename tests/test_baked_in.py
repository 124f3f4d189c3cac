"""A size or batch that an exporter or the model's author fixed is found by running other sizes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from deploytool import catalog, pipeline
from deploytool.cli import asked
from deploytool.errors import StageFailed
from deploytool.spec import Job, Range
from tests.conftest import QUICK
from tests.own_road import OWN, WITHOUT_ENGINE, Walk, failures

CORNERS = {f"eager at H {height}, W {width}" for height in (32, 64) for width in (32, 64)}


def test_every_corner_of_the_free_sizes_is_run(walk: Walk) -> None:
    written = walk("convolutional:Sharpen", ["image=3xHxW"], engine=False)
    for hop in written.hops[1:]:
        against = {check.against for check in hop.checks}
        assert against >= CORNERS | {"FP64"}
        assert ("itself at the largest batch" in against) != (hop.runner in ("widened", "rounded"))


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_size_that_was_baked_in_is_wrong_at_the_corners(exporter: str, walk: Walk) -> None:
    failed = failures(walk("fixed:CropByInt", ["3xHxW"], exporter, engine=False))
    stages = {"script", "translate", "simplify", "rewrite", "halve"} if exporter == "torchscript" else {"script"}
    assert failed == dict.fromkeys(stages, CORNERS)


def test_a_branch_on_the_size_is_wrong_at_the_largest_corners(walk: Walk) -> None:
    failed = failures(walk("fixed:LouderWhenLarge", ["3xHxW"], engine=False))
    large = {corner for corner in CORNERS if "H 64" in corner}
    assert failed == dict.fromkeys(("script", "translate", "simplify", "rewrite", "halve"), large)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_graph_that_mixes_the_batch_is_not_itself_at_another(exporter: str, walk: Walk) -> None:
    failed = failures(walk("fixed:BatchMixed", ["3x32x32"], exporter, engine=False))
    assert failed == {
        stage: {"itself at the largest batch"} for stage in ("script", "translate", "simplify", "rewrite", "halve")
    }


@pytest.mark.parametrize(
    ("name", "inputs", "exporter", "line"),
    [
        ("BatchByLen", "3x32x32", "torchscript", r"ONNX Runtime fails on input \(4, 3, 32, 32\): Add node '/Add': "),
        ("BatchByLen", "3x32x32", "dynamo", r"TorchScript fails on input \(32, 3, 32, 32\): .* size of tensor a"),
        ("BatchByInt", "3x32x32", "torchscript", "ONNX Runtime fails on input .*: Reshape node '/Reshape': "),
        ("BatchByInt", "3x32x32", "dynamo", r"TorchScript fails on .* shape '\[2, 8\]' is invalid"),
        ("BatchOfFour", "3x32x32", "torchscript", r"does not run on input \(2, 3, 32, 32\): shape '\[4, 8\]'"),
        ("Squeezed", "3x32x32", "torchscript", r"fixed_Squeezed gives a tensor \(10,\) for a batch of 1"),
        ("Pairs", "3x32x32", "torchscript", r"gives logits as \(1, 1\) of 1 case, and as \(2, 2\) of 2"),
        ("SizeOf48", "3xHxW", "torchscript", r"does not run on input \(1, 3, 32, 32\): shape '\[-1, 8, 576\]'"),
        ("SizeByInt", "3xHxW", "torchscript", r"ONNX Runtime fails on input \(2, 3, 32, 32\): .*:{-1,8,576}"),
        (
            "MapByInt",
            "3xHxW",
            "torchscript",
            r"script/script.pt against eager at H 32, W 32: shapes differ: \(2, 8, 48, 48\) and \(2, 8, 32, 32\)",
        ),
    ],
)
def test_a_number_that_was_baked_in_is_refused(name: str, inputs: str, exporter: str, line: str, walk: Walk) -> None:
    with pytest.raises(StageFailed, match=line) as refusal:
        walk(f"fixed:{name}", [inputs], exporter, engine=False)
    assert "\n" not in f"{refusal.value}{refusal.value.remedy}"


@pytest.mark.parametrize("images", [1, 8])
def test_the_largest_batch_is_run_however_few_the_images(images: int, tmp_path: Path) -> None:
    options = dataclasses.replace(QUICK, images=images, exporter="dynamo", batch=Range(1, 2, 5))
    job = Job(catalog.find(f"{OWN}/fixed.py:BatchByInt", asked.tensors(["3x32x32"])), options)
    with pytest.raises(StageFailed, match=r"TorchScript fails on input \(5, 3, 32, 32\)"):
        list(pipeline.run(job, WITHOUT_ENGINE, tmp_path / "run"))


def test_what_the_tracer_cannot_follow_is_in_the_receipt(walk: Walk, tmp_path: Path) -> None:
    walk("fixed:CropByInt", ["3xHxW"], engine=False)
    lines = (OWN / "fixed.py").read_text().splitlines()
    number = next(place for place, line in enumerate(lines, start=1) if "// 4]" in line)
    notes = {sealed.made_by: sealed.notes for _, sealed in pipeline.rooms(tmp_path / "run")}
    assert notes["script"]["fixed_at_export"] == [f"fixed.py:{number}"]
