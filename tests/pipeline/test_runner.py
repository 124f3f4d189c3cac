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
    """Which stage had to make its artifact anew."""
    return {artifact.made_by: artifact.fresh for artifact in runner.run(Job(TINY, options), recipe, home)}


def fresh(home: Path, options: Options = QUICK) -> set[str]:
    return {verb for verb, made in run(home, options).items() if made}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    assert fresh(tmp_path / "run") == set(SHORT)
    return tmp_path / "run"


def test_the_road_is_possible() -> None:
    runner.check(PIPELINE)
    runner.check((*PIPELINE, Stage.PACK))
    assert {*PIPELINE, "pack"} == set(STAGES)


def test_an_impossible_order_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="stage export needs golden, which no earlier stage makes"):
        next(runner.run(Job(TINY, QUICK), (Stage.LOAD, Stage.EXPORT), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_second_run_makes_nothing(home: Path) -> None:
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
def test_an_option_remakes_only_what_depends_on_it(home: Path, change: dict[str, object], made: set[str]) -> None:
    assert fresh(home, dataclasses.replace(QUICK, **change)) == made  # type: ignore[arg-type]  # names of fields


@pytest.mark.parametrize("spoil", ["edit", "delete", "receipt"])
def test_what_was_spoiled_is_noticed_and_remade(home: Path, spoil: str) -> None:
    file = home / "export" / "model.onnx"
    if spoil == "edit":
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    elif spoil == "delete":
        file.unlink()
    else:
        (home / "export" / receipt.FILE).write_text("{")
    assert fresh(home) >= {"export"}
    assert fresh(home) == set()


def test_the_same_job_gives_the_same_bytes(home: Path, tmp_path: Path) -> None:
    run(tmp_path / "again")
    for verb in SHORT:
        one, two = (receipt.read(folder / verb) for folder in (home, tmp_path / "again"))
        assert one is not None
        assert two is not None
        assert (one.key, one.files) == (two.key, two.files)


def test_another_source_of_the_model_is_another_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_model_source", lambda reference: "edited")
    assert fresh(home) == set(SHORT)


def test_another_version_of_a_library_remakes_what_it_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "version", lambda name: "0" if name == "onnxsim" else "1")
    run(home)
    monkeypatch.setattr(machine, "version", lambda name: "2" if name == "onnxsim" else "1")
    assert fresh(home) == {"simplify"}


def test_a_stage_that_fails_leaves_nothing_behind(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def make(self, job: Job, out: Path, inputs: StageInputs) -> Notes:
            out.write_bytes(b"half")
            raise StageFailed("refused", "try another")

    monkeypatch.setattr(registry, "import_stage", lambda verb: Failing())
    with pytest.raises(StageFailed):
        run(home, dataclasses.replace(QUICK, images=5))
    assert {path.name for path in home.iterdir()} == set(SHORT), "what is there stays, and no half room is there"
    assert {path.name for path in home.parent.iterdir()} == {"run"}


def test_an_interruption_leaves_no_half_room(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_run_that_made_nothing_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def make(self, job: Job, out: Path, inputs: StageInputs) -> Notes:
            raise StageFailed("refused", "try another")

    monkeypatch.setattr(registry, "import_stage", lambda verb: Refusing())
    with pytest.raises(StageFailed):
        run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_killed_run_left_is_swept(home: Path) -> None:
    (home / ".making-killed").mkdir()
    run(home)
    assert not list(home.glob(".making-*"))


def test_somebody_elses_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "simplify").mkdir()
    (tmp_path / "simplify" / "thesis.tex").write_text("mine")
    with pytest.raises(BadInput, match="simplify was not made by deploytool"):
        run(tmp_path)
    assert (tmp_path / "simplify" / "thesis.tex").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"simplify"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInput, match=f"cannot write to {home}"):
            run(home)


def test_a_run_that_is_all_there_imports_nothing_heavy(home: Path) -> None:
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


def test_the_artifacts_are_what_the_table_says(finished: Path) -> None:
    found = {room.name: sealed.kind for room, sealed in runner.stage_directories(finished)}
    assert found == {verb: STAGES[verb].produces for verb in PIPELINE}
    assert Kind.REPORT.value in {path.name for path in (finished / "validate").iterdir()}


def test_every_receipt_names_the_weights_it_all_began_with(finished: Path) -> None:
    sealed = dict(runner.stage_directories(finished))
    assert {one.weights for one in sealed.values()} == {sealed[finished / "load"].files[Kind.WEIGHTS.value]}


def test_children_begin_while_the_stages_before_theirs_work(tmp_path: Path) -> None:
    command = workers.command(STAGES[Stage.SIMPLIFY].worker)
    made = runner.run(Job(TINY, QUICK), SHORT, tmp_path / "run")
    waited = {artifact.made_by: process.is_waiting(command) for artifact in made}
    assert waited == {"load": True, "golden": True, "export": True, "simplify": False}


def test_nothing_begins_for_a_run_that_is_all_there_nor_outlives_one_that_is_left(home: Path) -> None:
    command = workers.command(STAGES[Stage.SIMPLIFY].worker)
    assert not any(process.is_waiting(command) for _ in runner.run(Job(TINY, QUICK), SHORT, home))
    other = runner.run(Job(TINY, dataclasses.replace(QUICK, seed=1)), SHORT, home)
    next(other)
    assert process.is_waiting(command)
    other.close()  # type: ignore[attr-defined]  # it is a generator
    assert not process.is_waiting(command)


def test_a_sweep_leaves_whole_rooms_and_nothing_else(run_copy: Path, tmp_path: Path) -> None:
    before = {path.name for path in run_copy.iterdir()}
    (run_copy / ".making-1" / "deep").mkdir(parents=True)
    (run_copy / ".making-1" / "deep" / "model.onnx").write_text("half")
    runner.sweep(run_copy)
    assert {path.name for path in run_copy.iterdir()} == before
    (tmp_path / "begun" / ".making-2").mkdir(parents=True)
    runner.sweep(tmp_path / "begun")
    assert not (tmp_path / "begun").exists()


def test_what_was_made_of_other_bytes_is_made_anew_though_the_key_of_its_parent_is_the_same(
    run_copy: Path, with_engine: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool need not do the same twice: here the simplified graph has another name the second time."""
    sound = simplify.make

    def other(job: Job, out: Path, inputs: StageInputs) -> Notes:
        notes = sound(job, out, inputs)
        graph = onnx.load(out)
        graph.graph.name = "other"
        onnx.save(graph, out)
        return notes

    shutil.rmtree(run_copy / "simplify")
    monkeypatch.setattr(simplify, "make", other)
    made = {each.made_by: each.fresh for each in runner.run(Job(TINY, with_engine), PIPELINE, run_copy)}
    assert not made[Stage.EXPORT]
    assert made[Stage.SIMPLIFY]
    assert made[Stage.REWRITE]
    assert made[Stage.VALIDATE]
