"""What an exporter fixes in the model's own lines is named by file and line, tried, and decides about the verdict."""

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
MIXING = {"SizeOfSum", "Item", "FloatScale", "Listed", "Array"}  # one number of a whole batch: they take one case alone


def translated(name: str, home: Path, *inputs: Tensor, sizes: dict[str, Range] | None = None) -> dict[str, object]:
    """The notes of translate, the torchscript exporter alone."""
    model = catalog.find(f"{OWN / 'asking.py'}:{name}", inputs or (VECTOR,), {})
    fixed_batch = 1 if name in MIXING else None
    options = Options(images=8, exporter="torchscript", sizes=sizes or {}, fixed_batch=fixed_batch)
    return dict(list(runner.run(Job(model, options), RECIPE, home))[-1].notes)


def lines(notes: dict[str, object]) -> tuple[BakedValue, ...]:
    return serde.decode(tuple[BakedValue, ...], notes["baked_values"])


def places_of(name: str, file: str = "asking.py") -> list[str]:
    """The lines of a class that are marked `# here`."""
    text = (OWN / file).read_text().splitlines()
    begin = next(number for number, line in enumerate(text) if line.startswith(f"class {name}("))
    found = []
    for number, line in enumerate(text[begin + 1 :], start=begin + 2):
        if line.startswith("class "):
            break
        if line.endswith("# here"):
            found.append(f"{file}:{number}")
    return found


@pytest.mark.parametrize(
    ("name", "what"),
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
def test_a_line_that_asks_for_data_is_convicted_by_an_input_that_goes_another_way(
    name: str, what: BakedKind, tmp_path: Path
) -> None:
    inputs = (VECTOR, GAIN) if name == "OnTheSecond" else (VECTOR,)
    found = [line for line in lines(translated(name, tmp_path / "run", *inputs)) if line.wrong]
    assert [line.location for line in found][:1] == places_of(name)
    assert found[0].kind is what
    assert found[0].origin is Origin.DATA
    assert found[0].counterexample
    assert (found[0].error or 1) > 1e-3
    assert "# here" in found[0].source


@pytest.mark.parametrize("name", sorted(MIXING))
def test_a_number_of_a_whole_batch_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    model = catalog.find(f"{OWN / 'asking.py'}:{name}", (VECTOR,), {})
    with pytest.raises(StageFailed, match="alone gets another answer") as refusal:
        list(runner.run(Job(model, Options(images=4)), RECIPE, tmp_path / "run"))
    assert f"it asks for a value of the whole batch at {places_of(name)[0]}" in str(refusal.value)
    assert "--batch 1" in refusal.value.remedy


def test_a_line_in_a_part_of_another_file_is_named_by_that_file(tmp_path: Path) -> None:
    (branch, *_) = lines(translated("InAPart", tmp_path / "run"))
    assert branch.location == "asking_part.py:10"
    assert branch.wrong


def test_the_graph_is_truly_another_model_on_the_input_that_is_named(tmp_path: Path) -> None:
    """By numpy, torch and ONNX Runtime alone."""
    (branch,) = lines(translated("OnMean", tmp_path / "run"))
    factor = float(branch.counterexample.rpartition("×")[2])
    loud = golden.read(tmp_path / "run" / "golden" / "golden.npz").inputs["vector"][:2] * np.float32(factor)
    module = factory.resolve(f"{OWN / 'asking.py'}:OnMean")()
    module.load_state_dict(load_file(tmp_path / "run" / "load" / "weights.safetensors"))
    wanted = module(torch.from_numpy(loud)).detach().numpy()
    (got,) = onnxruntime.InferenceSession(tmp_path / "run" / "export" / "model.onnx").run(None, {"vector": loud})
    off = float(np.abs(got - wanted).max() / np.abs(wanted).max())
    assert branch.error is not None
    assert 0.1 < branch.error / off < 10


def test_what_no_input_turns_is_doubtful_and_said_so(tmp_path: Path) -> None:
    (branch,) = lines(translated("Never", tmp_path / "run"))
    assert branch.doubtful
    assert branch.inputs_deviating == 0
    assert branch.inputs_tried >= 10
    assert baked_values.describe(branch).endswith(
        f"none of the {branch.inputs_tried} tested inputs takes the other branch"
    )


def test_what_was_turned_and_stayed_right_is_doubtful_all_the_same(tmp_path: Path) -> None:
    (branch,) = lines(translated("Harmless", tmp_path / "run"))
    assert branch.doubtful
    assert branch.inputs_deviating > 0
    assert "with correct results" in baked_values.describe(branch)


def test_a_line_that_only_refuses_is_a_guard(tmp_path: Path) -> None:
    found = lines(translated("Guarded", tmp_path / "run"))
    assert [line.location for line in found] == places_of("Guarded")
    assert all(line.guard and not line.doubtful and not line.wrong for line in found)


def test_a_line_that_asks_the_weights_alone_is_nothing(tmp_path: Path) -> None:
    assert lines(translated("OfWeights", tmp_path / "run")) == ()


def test_a_line_about_sizes_that_everybody_has_is_harmless(tmp_path: Path) -> None:
    found = lines(translated("BySizes", tmp_path / "run"))
    assert [line.location for line in found] == places_of("BySizes")
    assert all(line.origin is Origin.SHAPE and not line.wrong for line in found)
    (remark,) = baked_values.harmless_lines(found)
    assert remark.startswith("fixed at export from sizes only")


def test_a_loop_over_a_free_size_is_named_though_the_tracer_says_nothing(tmp_path: Path) -> None:
    found = lines(translated("LoopOverSize", tmp_path / "run", IMAGE, sizes=TALL))
    assert [line.location for line in found if line.wrong] == places_of("LoopOverSize")
    assert found[0].counterexample == "H 32"


def test_a_size_that_the_exporter_follows_is_not_wrong(tmp_path: Path) -> None:
    found = lines(translated("ConstantOfSize", tmp_path / "run", IMAGE, sizes=TALL))
    assert [line.location for line in found] == places_of("ConstantOfSize")
    assert not any(line.wrong for line in found)


def test_a_batch_that_is_counted_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=rf"^{places_of('BatchByLen')[0]}: a size was fixed at export.* fails at"):
        translated("BatchByLen", tmp_path / "run")


def test_the_verdict_is_a_failure_that_names_the_line_and_the_input(tmp_path: Path) -> None:
    run = api.export(f"{OWN / 'asking.py'}:OnMean", inputs=[(16,)], quick=True, out=tmp_path / "run")
    (place,) = places_of("OnMean")
    assert not run.passed
    closing = verdict.conclude(run.report, run.folder)
    assert closing.verdict == Verdict.FAIL
    assert closing.reasons[0].startswith(f"{place}: a branch was fixed at export")
    assert "export is" in closing.reasons[0]
    assert closing.next == baked_values.REMEDY
    assert run.script is None
    assert run.report_html is not None
    assert f"{place}: a branch was fixed at export" in run.report_html.read_text()


def test_a_doubtful_line_takes_the_plain_pass_away(tmp_path: Path) -> None:
    (place,) = places_of("Never")
    out, never = tmp_path / "run", f"{OWN / 'asking.py'}:Never"
    run = api.export(never, inputs=[(16,)], quick=True, faults=1, seconds=0.1, out=out, exporter="torchscript")
    closing = verdict.conclude(run.report, run.folder)
    assert closing.verdict == Verdict.PASS_HERE
    (line,) = closing.pending
    assert line.startswith(f"{place}: a branch was fixed at export")
    refusal = api.outcome_error(run.report, run.folder, require=True)
    assert isinstance(refusal, NotVerified)
    assert place in str(refusal)


def test_guards_and_sizes_alone_leave_the_plain_pass(tmp_path: Path) -> None:
    for name in ("Guarded", "BySizes"):
        model = f"{OWN / 'asking.py'}:{name}"
        run = api.export(model, inputs=[(16,)], quick=True, faults=1, seconds=0.1, to="onnx", out=tmp_path / name)
        assert verdict.conclude(run.report, run.folder).verdict == Verdict.PASS
        (remark,) = (line for line in run.report.remarks if "fixed at export" in line)
        assert all(place in remark for place in places_of(name))


def test_the_exporter_that_leaves_a_value_open_is_kept(tmp_path: Path) -> None:
    run = api.export(f"{OWN / 'asking.py'}:BatchByLen", inputs=[(16,)], quick=True, to="onnx", out=tmp_path / "run")
    assert run.passed
    assert run.report.baked_values == ()
    (remark,) = (line for line in run.report.remarks if line.startswith("export: "))
    assert places_of("BatchByLen")[0] in remark
