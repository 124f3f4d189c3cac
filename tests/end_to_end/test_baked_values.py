"""Tests that values baked in by an exporter are located by file and line, tested, and affect the verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from deploytool import api, serde
from deploytool.data import golden
from deploytool.errors import NotVerified, StageFailed
from deploytool.loading import catalog, factory
from deploytool.pipeline import runner
from deploytool.results import baked_values, verdict
from deploytool.results.baked_values import BakedKind, BakedValue, Origin
from deploytool.spec import Job, Options, Range, Stage, Tensor, Verdict
from tests.conftest import ROOT

OWN = ROOT / "tests" / "user_models"
RECIPE = (Stage.LOAD, Stage.GOLDEN, Stage.TORCHSCRIPT, Stage.EXPORT)
VECTOR, GAIN = Tensor("vector", ("batch", 16)), Tensor("gain", ("batch", 10))
IMAGE = Tensor("image", ("batch", 3, "H", 32))
TALL = {"H": Range(32, 48, 96)}
MIXING = {
    "SizeOfSum",
    "Item",
    "FloatScale",
    "Listed",
    "Array",
}  # read a value of the whole batch: exported with batch 1


def export_notes(name: str, home: Path, *inputs: Tensor, sizes: dict[str, Range] | None = None) -> dict[str, object]:
    """The notes of the export stage with the torchscript exporter."""
    model = catalog.find(f"{OWN / 'data_dependent.py'}:{name}", inputs or (VECTOR,), {})
    fixed_batch = 1 if name in MIXING else None
    options = Options(images=8, exporter="torchscript", sizes=sizes or {}, fixed_batch=fixed_batch)
    return dict(list(runner.run(Job(model, options), RECIPE, home))[-1].notes)


def baked_lines(notes: dict[str, object]) -> tuple[BakedValue, ...]:
    return serde.decode(tuple[BakedValue, ...], notes["baked_values"])


def marked_lines(name: str, file: str = "data_dependent.py") -> list[str]:
    """The locations of the lines of a class that are marked `# here`."""
    text = (OWN / file).read_text().splitlines()
    begin = next(number for number, line in enumerate(text) if line.startswith(f"class {name}("))
    locations = []
    for number, line in enumerate(text[begin + 1 :], start=begin + 2):
        if line.startswith("class "):
            break
        if line.endswith("# here"):
            locations.append(f"{file}:{number}")
    return locations


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("OnMean", BakedKind.BRANCH),
        ("WhileLoud", BakedKind.BRANCH),
        ("SizeOfSum", BakedKind.SIZE),
        ("Item", BakedKind.VALUE),
        ("FloatScale", BakedKind.VALUE),
        ("Sign", BakedKind.BRANCH),
        ("EarlyExit", BakedKind.BRANCH),
        ("OnTheSecond", BakedKind.BRANCH),
        ("Listed", BakedKind.VALUE),
        ("Array", BakedKind.VALUE),
        ("Ragged", BakedKind.BRANCH),
    ],
)
def test_an_input_that_takes_another_branch_shows_the_baked_in_line(name: str, kind: BakedKind, tmp_path: Path) -> None:
    inputs = (VECTOR, GAIN) if name == "OnTheSecond" else (VECTOR,)
    wrong = [line for line in baked_lines(export_notes(name, tmp_path / "run", *inputs)) if line.wrong]
    assert [line.location for line in wrong][:1] == marked_lines(name)
    assert wrong[0].kind is kind
    assert wrong[0].origin is Origin.DATA
    assert wrong[0].counterexample
    assert (wrong[0].error or 1) > 1e-3
    assert "# here" in wrong[0].source


@pytest.mark.parametrize("name", sorted(MIXING))
def test_reading_a_value_of_the_whole_batch_is_an_error_with_its_line(name: str, tmp_path: Path) -> None:
    model = catalog.find(f"{OWN / 'data_dependent.py'}:{name}", (VECTOR,), {})
    with pytest.raises(StageFailed, match="depend on the other cases of its batch") as caught:
        list(runner.run(Job(model, Options(images=4)), RECIPE, tmp_path / "run"))
    assert f"a value of the whole batch is read at {marked_lines(name)[0]}" in str(caught.value)
    assert "--batch 1" in caught.value.remedy


def test_a_line_of_a_submodule_in_another_file_is_located_there(tmp_path: Path) -> None:
    (branch, *_) = baked_lines(export_notes("InAPart", tmp_path / "run"))
    assert branch.location == "data_dependent_part.py:10"
    assert branch.wrong


def test_the_graph_deviates_on_the_reported_input(tmp_path: Path) -> None:
    """Checked with numpy, torch and ONNX Runtime alone."""
    (branch,) = baked_lines(export_notes("OnMean", tmp_path / "run"))
    factor = float(branch.counterexample.rpartition("×")[2])
    loud = golden.read(tmp_path / "run" / "golden" / "golden.npz").inputs["vector"][:2] * np.float32(factor)
    module = factory.resolve(f"{OWN / 'data_dependent.py'}:OnMean")()
    module.load_state_dict(load_file(tmp_path / "run" / "load" / "weights.safetensors"))
    expected = module(torch.from_numpy(loud)).detach().numpy()
    (actual,) = onnxruntime.InferenceSession(tmp_path / "run" / "export" / "model.onnx").run(None, {"vector": loud})
    error = float(np.abs(actual - expected).max() / np.abs(expected).max())
    assert branch.error is not None
    assert 0.1 < branch.error / error < 10


def test_a_branch_that_no_input_takes_is_doubtful(tmp_path: Path) -> None:
    (branch,) = baked_lines(export_notes("Never", tmp_path / "run"))
    assert branch.doubtful
    assert branch.inputs_deviating == 0
    assert branch.inputs_tried >= 10
    assert f"none of the {branch.inputs_tried} tested inputs" in baked_values.describe(branch)


def test_a_branch_without_an_effect_on_tried_inputs_is_doubtful(tmp_path: Path) -> None:
    (branch,) = baked_lines(export_notes("Harmless", tmp_path / "run"))
    assert branch.doubtful
    assert branch.inputs_deviating > 0
    assert "with correct results" in baked_values.describe(branch)


def test_a_line_that_only_raises_is_a_guard(tmp_path: Path) -> None:
    baked = baked_lines(export_notes("Guarded", tmp_path / "run"))
    assert [line.location for line in baked] == marked_lines("Guarded")
    assert all(line.guard and not line.doubtful and not line.wrong for line in baked)


def test_a_line_that_reads_only_weights_is_not_reported(tmp_path: Path) -> None:
    assert baked_lines(export_notes("OfWeights", tmp_path / "run")) == ()


def test_a_line_that_reads_only_static_sizes_is_harmless(tmp_path: Path) -> None:
    baked = baked_lines(export_notes("BySizes", tmp_path / "run"))
    assert [line.location for line in baked] == marked_lines("BySizes")
    assert all(line.origin is Origin.SHAPE and not line.wrong for line in baked)
    (remark,) = baked_values.harmless_lines(baked)
    assert remark.startswith("fixed at export from sizes only")


def test_a_loop_over_a_dynamic_size_is_reported_without_a_tracer_warning(tmp_path: Path) -> None:
    baked = baked_lines(export_notes("LoopOverSize", tmp_path / "run", IMAGE, sizes=TALL))
    assert [line.location for line in baked if line.wrong] == marked_lines("LoopOverSize")
    assert baked[0].counterexample == "H 32"


def test_a_size_that_stays_dynamic_is_not_wrong(tmp_path: Path) -> None:
    baked = baked_lines(export_notes("ConstantOfSize", tmp_path / "run", IMAGE, sizes=TALL))
    assert [line.location for line in baked] == marked_lines("ConstantOfSize")
    assert not any(line.wrong for line in baked)


def test_a_baked_in_batch_size_is_an_error_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=rf"^{marked_lines('BatchByLen')[0]}: a size was fixed at export.* fails at"):
        export_notes("BatchByLen", tmp_path / "run")


def test_the_failed_verdict_contains_the_line_and_the_input(tmp_path: Path) -> None:
    run = api.export(f"{OWN / 'data_dependent.py'}:OnMean", inputs=[(16,)], quick=True, out=tmp_path / "run")
    (location,) = marked_lines("OnMean")
    assert not run.passed
    closing = verdict.conclude(run.report, run.folder)
    assert closing.verdict == Verdict.FAIL
    assert closing.reasons[0].startswith(f"{location}: a branch was fixed at export")
    assert "export deviates by" in closing.reasons[0]
    assert closing.next == baked_values.REMEDY
    assert run.script is None
    assert run.report_html is not None
    assert f"{location}: a branch was fixed at export" in run.report_html.read_text()


def test_a_doubtful_line_prevents_an_unconditional_pass(tmp_path: Path) -> None:
    (location,) = marked_lines("Never")
    out, never = tmp_path / "run", f"{OWN / 'data_dependent.py'}:Never"
    run = api.export(never, inputs=[(16,)], quick=True, faults=1, seconds=0.1, out=out, exporter="torchscript")
    closing = verdict.conclude(run.report, run.folder)
    assert closing.verdict == Verdict.PASS_HERE
    (line,) = closing.pending
    assert line.startswith(f"{location}: a branch was fixed at export")
    refusal = api.outcome_error(run.report, run.folder, require=True)
    assert isinstance(refusal, NotVerified)
    assert location in str(refusal)


def test_guards_and_static_sizes_do_not_prevent_a_pass(tmp_path: Path) -> None:
    for name in ("Guarded", "BySizes"):
        model = f"{OWN / 'data_dependent.py'}:{name}"
        run = api.export(model, inputs=[(16,)], quick=True, faults=1, seconds=0.1, to="onnx", out=tmp_path / name)
        assert verdict.conclude(run.report, run.folder).verdict == Verdict.PASS
        (remark,) = (line for line in run.report.remarks if "fixed at export" in line)
        assert all(location in remark for location in marked_lines(name))


def test_the_exporter_that_keeps_a_value_dynamic_is_preferred(tmp_path: Path) -> None:
    run = api.export(
        f"{OWN / 'data_dependent.py'}:BatchByLen", inputs=[(16,)], quick=True, to="onnx", out=tmp_path / "run"
    )
    assert run.passed
    assert run.report.baked_values == ()
    (remark,) = (line for line in run.report.remarks if line.startswith("export: "))
    assert marked_lines("BatchByLen")[0] in remark
