"""The pipeline runner: which stages are reused, what a failed run leaves, and when workers start."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import onnx
import pytest

from deploytool.errors import BadInput, StageFailed
from deploytool.host import machine, process, workers
from deploytool.loading.stage_inputs import StageInputs
from deploytool.pipeline import runner
from deploytool.pipeline.recipe import PIPELINE
from deploytool.results import receipt
from deploytool.results.artifact import Kind, Notes
from deploytool.spec import Job, Options, Stage
from deploytool.stages import registry, simplify
from deploytool.stages.registry import STAGES
from tests.conftest import QUICK, TINY, modules_of

SHORT = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY)


def run(home: Path, options: Options = QUICK, recipe: tuple[Stage, ...] = SHORT) -> dict[Stage, bool]:
    """Runs the stages; for each, whether it ran and was not reused."""
    return {artifact.made_by: artifact.fresh for artifact in runner.run(Job(TINY, options), recipe, home)}


def fresh(home: Path, options: Options = QUICK) -> set[str]:
    """Runs the stages; returns those that were not reused."""
    return {stage for stage, is_fresh in run(home, options).items() if is_fresh}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    assert fresh(tmp_path / "run") == set(SHORT)
    return tmp_path / "run"


def test_the_pipeline_is_a_valid_recipe() -> None:
    runner.check(PIPELINE)
    runner.check((*PIPELINE, Stage.PACK))
    assert {*PIPELINE, "bf16", "calibrate", "int8", "fp8", "metric", "pack"} == set(STAGES)


def test_a_recipe_with_a_missing_input_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="stage export needs golden, which no earlier stage makes"):
        next(runner.run(Job(TINY, QUICK), (Stage.LOAD, Stage.EXPORT), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_second_run_reuses_every_stage(home: Path) -> None:
    assert fresh(home) == set()


@pytest.mark.parametrize(
    ("change", "made"),
    [
        ({"seed": 1}, set(SHORT)),
        ({"images": 5}, {"golden", "export", "simplify"}),
        ({"opset": 19}, {"export", "simplify"}),
        ({"runner": "reference"}, {"export", "simplify"}),
        ({"io": "fp16"}, set()),
    ],
)
def test_an_option_repeats_only_the_stages_that_depend_on_it(
    home: Path, change: dict[str, object], made: set[str]
) -> None:
    assert fresh(home, dataclasses.replace(QUICK, **change)) == made  # type: ignore[arg-type]  # names of fields


@pytest.mark.parametrize("damage", ["edit", "delete", "receipt"])
def test_a_damaged_stage_is_repeated(home: Path, damage: str) -> None:
    file = home / "export" / "model.onnx"
    if damage == "edit":
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    elif damage == "delete":
        file.unlink()
    else:
        (home / "export" / receipt.FILE).write_text("{")
    assert fresh(home) >= {"export"}
    assert fresh(home) == set()


def test_the_same_job_gives_the_same_bytes(home: Path, tmp_path: Path) -> None:
    run(tmp_path / "again")
    for stage in SHORT:
        one, two = (receipt.read(folder / stage) for folder in (home, tmp_path / "again"))
        assert one is not None
        assert two is not None
        assert (one.key, one.files) == (two.key, two.files)


def test_a_change_of_the_model_code_repeats_every_stage(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_model_source", lambda reference: "edited")
    assert fresh(home) == set(SHORT)


def test_another_version_of_a_library_repeats_the_stages_that_use_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "version", lambda name: "0" if name == "onnxsim" else "1")
    run(home)
    monkeypatch.setattr(machine, "version", lambda name: "2" if name == "onnxsim" else "1")
    assert fresh(home) == {"simplify"}


def test_a_failed_stage_leaves_no_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def make(self, job: Job, out: Path, inputs: StageInputs) -> Notes:
            out.write_bytes(b"half")
            raise StageFailed("refused", "try another")

    monkeypatch.setattr(registry, "import_stage", lambda verb: Failing())
    with pytest.raises(StageFailed):
        run(home, dataclasses.replace(QUICK, images=5))
    assert {path.name for path in home.iterdir()} == set(SHORT)
    assert {path.name for path in home.parent.iterdir()} == {"run"}


def test_an_interrupted_stage_leaves_no_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def make(self, job: Job, out: Path, inputs: StageInputs) -> Notes:
            out.write_bytes(b"half")
            raise KeyboardInterrupt

    monkeypatch.setattr(registry, "import_stage", lambda verb: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        run(home, dataclasses.replace(QUICK, seed=5))
    assert {path.name for path in home.iterdir()} == set(SHORT)
    assert {path.name for path in home.parent.iterdir()} == {"run"}
    monkeypatch.undo()
    assert fresh(home) == set()


def test_a_run_that_fails_in_its_first_stage_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def make(self, job: Job, out: Path, inputs: StageInputs) -> Notes:
            raise StageFailed("refused", "try another")

    monkeypatch.setattr(registry, "import_stage", lambda verb: Refusing())
    with pytest.raises(StageFailed):
        run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_files_of_a_killed_run_are_removed(home: Path) -> None:
    (home / ".making-killed").mkdir()
    run(home)
    assert not list(home.glob(".making-*"))


def test_a_folder_with_foreign_files_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / "simplify").mkdir()
    (tmp_path / "simplify" / "thesis.tex").write_text("mine")
    with pytest.raises(BadInput, match="simplify was not made by deploytool"):
        run(tmp_path)
    assert (tmp_path / "simplify" / "thesis.tex").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"simplify"}


def test_the_error_names_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInput, match=f"cannot write to {home}"):
            run(home)


def test_a_fully_reused_run_imports_no_heavy_library(home: Path) -> None:
    program = f"""
from deploytool.pipeline import runner
from tests.conftest import QUICK, TINY
from deploytool.spec import Stage
from deploytool.spec import Job
from pathlib import Path
made = list(runner.run(Job(TINY, QUICK), tuple(map(Stage, {[*map(str, SHORT)]!r})), Path({str(home)!r})))
assert not any(artifact.fresh for artifact in made)
"""
    assert not {"torch", "onnx", "onnxruntime", "tensorrt_rtx"} & modules_of(program)


pytestmark = pytest.mark.integration


def test_every_stage_makes_the_kind_of_artifact_that_it_declares(finished: Path) -> None:
    kinds = {directory.name: proof.kind for directory, proof in runner.stage_directories(finished)}
    assert kinds == {stage: STAGES[stage].produces for stage in PIPELINE}
    assert Kind.REPORT.value in {path.name for path in (finished / "validate").iterdir()}


def test_every_receipt_has_the_digest_of_the_weights(finished: Path) -> None:
    receipts = dict(runner.stage_directories(finished))
    assert {proof.weights for proof in receipts.values()} == {receipts[finished / "load"].files[Kind.WEIGHTS.value]}


def test_workers_start_while_earlier_stages_run(tmp_path: Path) -> None:
    command = workers.command(STAGES[Stage.SIMPLIFY].worker)
    made = runner.run(Job(TINY, QUICK), SHORT, tmp_path / "run")
    is_waiting = {artifact.made_by: process.is_waiting(command) for artifact in made}
    assert is_waiting == {"load": True, "golden": True, "export": True, "simplify": False}


def test_no_worker_starts_for_a_reused_run_or_outlives_an_abandoned_one(home: Path) -> None:
    command = workers.command(STAGES[Stage.SIMPLIFY].worker)
    assert not any(process.is_waiting(command) for _ in runner.run(Job(TINY, QUICK), SHORT, home))
    other = runner.run(Job(TINY, dataclasses.replace(QUICK, seed=1)), SHORT, home)
    next(other)
    assert process.is_waiting(command)
    other.close()  # type: ignore[attr-defined]  # it is a generator
    assert not process.is_waiting(command)


def test_a_sweep_removes_temporary_folders_only(run_copy: Path, tmp_path: Path) -> None:
    before = {path.name for path in run_copy.iterdir()}
    (run_copy / ".making-1" / "deep").mkdir(parents=True)
    (run_copy / ".making-1" / "deep" / "model.onnx").write_text("half")
    runner.sweep(run_copy)
    assert {path.name for path in run_copy.iterdir()} == before
    (tmp_path / "begun" / ".making-2").mkdir(parents=True)
    runner.sweep(tmp_path / "begun")
    assert not (tmp_path / "begun").exists()


def test_a_stage_is_repeated_if_its_input_has_other_bytes_with_the_same_key(
    run_copy: Path, with_engine: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool may give different bytes when run again: here the simplified graph gets another name."""
    original = simplify.make

    def make_other(job: Job, out: Path, inputs: StageInputs) -> Notes:
        notes = original(job, out, inputs)
        graph = onnx.load(out)
        graph.graph.name = "other"
        onnx.save(graph, out)
        return notes

    shutil.rmtree(run_copy / "simplify")
    monkeypatch.setattr(simplify, "make", make_other)
    made = {artifact.made_by: artifact.fresh for artifact in runner.run(Job(TINY, with_engine), PIPELINE, run_copy)}
    assert not made[Stage.EXPORT]
    assert made[Stage.SIMPLIFY]
    assert made[Stage.REWRITE]
    assert made[Stage.VALIDATE]
