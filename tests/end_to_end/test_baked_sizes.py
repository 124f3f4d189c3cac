"""Tests that baked-in sizes and batch sizes are found by running other sizes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from deploytool.cli import params
from deploytool.errors import StageFailed
from deploytool.loading import catalog
from deploytool.pipeline import runner
from deploytool.results import report, verdict
from deploytool.spec import Job, Range
from tests.conftest import QUICK
from tests.user_model_export import OWN, WITHOUT_ENGINE, Walk, failures

CORNERS = {f"eager at H {height}, W {width}" for height in (32, 64) for width in (32, 64)}
CORNERS |= {"eager at H 61, W 61"}


def location_of(text: str) -> str:
    """The location of the first line of the model file that contains `text`."""
    lines = (OWN / "baked_sizes.py").read_text().splitlines()
    return f"baked_sizes.py:{next(number for number, line in enumerate(lines, start=1) if text in line)}"


def test_all_corners_of_the_dynamic_sizes_are_run(walk: Walk) -> None:
    written = walk("convolutional:Sharpen", ["image=3xHxW"], engine=False)
    for comparison in written.comparisons[1:]:
        against = {check.against for check in comparison.checks}
        assert against >= CORNERS | {"FP64"}
        assert ("itself at the largest batch" in against) != (comparison.runner in ("fp32_compute", "fp16_emulation"))


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_baked_in_size_fails_at_the_corners(exporter: str, walk: Walk) -> None:
    written = walk("baked_sizes:CropByInt", ["3xHxW"], exporter, engine=False)
    stages = {"export", "simplify", "rewrite", "fp16"} if exporter == "torchscript" else set()
    assert failures(written) == dict.fromkeys(stages, CORNERS)
    (script,) = (comparison for comparison in written.comparisons if comparison.stage == "torchscript")
    assert script.left_out
    assert f"{location_of('// 4]')}: a size was fixed at export" in script.reason


def test_a_branch_on_the_size_fails_at_the_largest_corners(walk: Walk) -> None:
    written = walk("baked_sizes:LouderWhenLarge", ["3xHxW"], engine=False)
    large = {corner for corner in CORNERS if "H 32" not in corner}
    assert failures(written) == dict.fromkeys(("export", "simplify", "rewrite", "fp16"), large)
    (line,) = verdict.conclude(written, Path("run")).reasons[:1]
    assert line.startswith(f"{location_of('image.shape[2] > 48')}: a branch was fixed at export")


@pytest.mark.parametrize(
    ("name", "inputs", "exporter", "line"),
    [
        (
            "BatchByLen",
            "3x32x32",
            "torchscript",
            r"^baked_sizes.py:\d+: a size was fixed at export.* fails at batch size 4",
        ),
        (
            "BatchByInt",
            "3x32x32",
            "torchscript",
            r"^baked_sizes.py:\d+: a size was fixed at export.* fails at batch size 4",
        ),
        ("BatchOfFour", "3x32x32", "torchscript", r"does not run on input \(2, 3, 32, 32\): shape '\[4, 8\]'"),
        (
            "Squeezed",
            "3x32x32",
            "torchscript",
            r"baked_sizes_Squeezed returns a tensor of shape \(10,\) for a batch of 1",
        ),
        (
            "BatchMixed",
            "3x32x32",
            "dynamo",
            "the outputs of an image depend on the other cases of its batch$",
        ),
        ("Pairs", "3x32x32", "torchscript", r"\(1, 1\) for a batch of 1, and \(2, 2\) for a batch of 2"),
        ("SizeOf48", "3xHxW", "torchscript", r"does not run on input \(1, 3, 32, 32\): shape '\[-1, 8, 576\]'"),
        ("SizeByInt", "3xHxW", "torchscript", r"^baked_sizes.py:\d+: a size was fixed at export.* fails at H 32, W 32"),
        ("MapByInt", "3xHxW", "torchscript", r"^baked_sizes.py:\d+: a size was fixed at export.* fails at H 32, W 32"),
    ],
)
def test_a_baked_in_size_that_no_exporter_can_fix_is_an_error(
    name: str, inputs: str, exporter: str, line: str, walk: Walk
) -> None:
    with pytest.raises(StageFailed, match=line) as caught:
        walk(f"baked_sizes:{name}", [inputs], exporter, engine=False)
    assert "\n" not in f"{caught.value}{caught.value.remedy}"


@pytest.mark.parametrize("name", ["BatchByLen", "BatchByInt", "MapByInt"])
def test_the_exporter_that_keeps_a_size_dynamic_is_preferred(name: str, walk: Walk) -> None:
    inputs = "3xHxW" if name == "MapByInt" else "3x32x32"
    written = walk(f"baked_sizes:{name}", [inputs], "auto", engine=False)
    assert not failures(written)
    assert written.comparisons[1].left_out
    assert written.baked_values == ()
    (remark,) = (line for line in written.remarks if line.startswith("export: "))
    assert "used the graph of the dynamo exporter: the torchscript exporter fixes values at baked_sizes.py:" in remark


@pytest.mark.parametrize("images", [1, 8])
def test_the_largest_batch_is_run_with_few_images(images: int, tmp_path: Path) -> None:
    options = dataclasses.replace(QUICK, images=images, batch=Range(1, 2, 5), exporter="torchscript")
    job = Job(catalog.find(f"{OWN}/baked_sizes.py:LouderInCrowds", params.tensors(["3x32x32"])), options)
    *_, last = runner.run(job, WITHOUT_ENGINE, tmp_path / "run")
    broken = " ".join(verdict.failed_lines(report.read(last.path)))
    assert "torchscript against eager, batch size 5" in broken
    assert "rewrite against eager, batch size 5" in broken


def test_a_size_that_dynamo_bakes_in_silently_is_named_by_its_line(walk: Walk) -> None:
    with pytest.raises(
        StageFailed, match=r"^baked_sizes.py:\d+: a size was fixed at export .*, and export fails at H 32"
    ):
        walk("baked_sizes:SizeByInt", ["3xHxW"], "dynamo", engine=False)
