from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploytool import serde
from deploytool.backends import tensorrt_estimate
from deploytool.backends.tensorrt_estimate import BuildEstimate
from deploytool.benchmark import machine_state
from deploytool.benchmark.interleave import TimingSeries
from deploytool.benchmark.machine_state import Conditions
from deploytool.errors import ParityFailed
from deploytool.loading.stage_inputs import StageInputs
from deploytool.pipeline.export_options import ExportOptions
from deploytool.pipeline.plan import plan_export
from deploytool.results.artifact import Artifact, Kind
from deploytool.rewrites import forms as rewrites_forms
from deploytool.rewrites import gather_shuffle
from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.spec import Job, Options, Range, Stage
from deploytool.stages import fp16, rewrite
from tests.conftest import QUICK, TINY, artifacts
from tests.parity.pretended import series


@pytest.fixture
def given(finished: Path) -> StageInputs:
    """The inputs of the rewrite stage: what the stages before it made."""
    kept = artifacts(finished).artifacts
    return StageInputs(
        tuple(each for each in kept if each.made_by in (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY))
    )


def make(given: StageInputs, out: Path, asked: str = "auto", **more: Any) -> dict[str, Any]:
    return dict(rewrite.make(Job(TINY, dataclasses.replace(QUICK, rewrite=asked, **more)), out, given))


def speeds(
    monkeypatch: pytest.MonkeyPatch, times: Mapping[str, float], busy: Mapping[str, float] | None = None
) -> list[list[str]]:
    """Each form works for so many milliseconds, always, and takes as long, or as `busy` says: then the machine is.

    Returns who was timed together.
    """
    asked: list[list[str]] = []

    def watched(
        calls: Mapping[str, Callable[[], object]], seconds: float, threads: int
    ) -> tuple[dict[str, TimingSeries], Conditions]:
        asked.append(list(calls))
        for call in calls.values():
            call()
        worked = {name: np.full(9, times.get(name, 10.0)) for name in calls}
        taken = {name: series(each) for name, each in worked.items()}
        if busy is not None:
            walls = {name: np.full(9, busy.get(name, 30.0)) for name in calls}
            taken = {name: TimingSeries(wall, worked[name], 0.9 * threads * wall) for name, wall in walls.items()}
        return taken, Conditions(threads, 2, 0.0, 0.0, 1.0, 1.0, 1.0, (), (), None)

    monkeypatch.setattr(machine_state, "time_watched", watched)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    return asked


def test_the_fastest_form_is_kept(given: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, {"folded": 4.0, "grouped": 8.0})
    notes = make(given, tmp_path / "model.onnx")
    assert notes["chosen"] == "folded"
    assert notes["remarks"] == [
        "folded, of original, grouped: 2.50× (2.50–2.50) the original graph's speed at batch 1, "
        "2.50× (2.50–2.50) the original graph's speed at batch 8 (measured)",
        "grouped for FP16 and engines: 11 nodes for 15 (estimated)",
    ]
    kept = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(kept, full_check=True)
    assert "GlobalAveragePool" in {node.op_type for node in kept.graph.node}
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "engine.onnx"}


def test_a_form_that_is_not_surely_faster_is_not_kept(
    given: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds(monkeypatch, {})
    notes = make(given, tmp_path / "model.onnx")
    assert notes["chosen"] == "original"
    assert notes["remarks"][0] == "original: none of folded, grouped is surely faster (measured)"
    assert (tmp_path / "model.onnx").read_bytes() == given.latest(Kind.GRAPH).path.read_bytes()


def test_the_hopeless_are_not_timed_again_and_neither_is_what_takes_too_long(
    given: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = speeds(monkeypatch, {"grouped": 10.5})  # 0.95× would never be kept, whatever it does at batch 8
    make(given, tmp_path / "model.onnx")
    assert asked == [["original", "folded", "grouped"], ["original", "folded"]]
    asked = speeds(monkeypatch, {})
    make(given, tmp_path / "model.onnx", batch=Range(1, 500, 1000))
    assert len(asked) == 1


def test_on_a_busy_machine_one_thread_by_its_own_time_decides(
    given: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = speeds(monkeypatch, {"folded": 4.0}, busy={"grouped": 2.0})
    notes = make(given, tmp_path / "model.onnx")
    assert notes["chosen"] == "folded"
    why = "(measured by processor time, on one thread: original waited for a processor in 100% of its rounds)"
    assert notes["remarks"][0].endswith(why)
    assert asked == [["original", "folded", "grouped"]] * 3  # once in vain, and then at both batches


def test_the_times_are_real(given: StageInputs, tmp_path: Path) -> None:
    notes = make(given, tmp_path / "model.onnx")
    results = {each["names"][0]: each for each in notes["candidates"]}
    assert set(results) == {"original", "folded", "grouped"}
    assert all(each["max_error"] <= 1e-5 for each in results.values())
    assert all("1" in each["faster_than_original"] for each in results.values())
    outcomes = serde.decode(Mapping[str, Outcome], notes["rewrites"])  # type: ignore[type-abstract]  # a hint as it is
    assert outcomes["pool_globally"].applied == ("/GlobalAveragePool",)
    assert outcomes["merge_siblings"].applied == ()
    assert outcomes["merge_siblings"].skipped


def test_an_engine_gets_a_form_of_its_own(given: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, {"folded": 4.0})
    notes = make(given, tmp_path / "model.onnx")
    assert (notes["chosen"], notes["for_engine"]) == ("folded", "grouped")
    beside = Artifact(Kind.GRAPH, tmp_path / "model.onnx", "digest", "key", Stage.REWRITE, {}, 0.0, fresh=True)
    fp16.make(Job(TINY, QUICK), tmp_path / "half.onnx", StageInputs((beside,)))
    operators = [node.op_type for node in onnx.load(tmp_path / "half.onnx").graph.node]
    assert "Gather" in operators
    assert "Transpose" not in operators


def test_a_form_that_is_asked_for_is_the_engines_too(given: StageInputs, tmp_path: Path) -> None:
    make(given, tmp_path / "model.onnx", "folded")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_too_many_weights_are_not_for_an_engine(given: StageInputs) -> None:
    original, *_, grouped = rewrites_forms.candidates(onnx.load(given.latest(Kind.GRAPH).path))
    job = Job(TINY, QUICK)
    assert rewrite._for_engine([original, grouped], job)[0] is grouped
    heavy = np.zeros(original.weights, np.float32)
    grouped.model.graph.initializer.append(numpy_helper.from_array(heavy, "ballast"))
    assert rewrite._for_engine([original, grouped], job) == (original, [])


OLD = BuildEstimate(kernels=10, syncs=4, traffic=8_000_000, size=2_000_000)


@pytest.mark.parametrize(
    ("new", "remark"),
    [
        (
            BuildEstimate(8, 0, 9_000_000, 3_000_000),
            "grouped for FP16 and engines: 8 kernels for 10, 0 syncs for 4, 9.0 MB of",
        ),
        (BuildEstimate(10, 4, 1, 1), "original for FP16 and engines, not grouped: 10 kernels for 10"),
        (BuildEstimate(9, 6, 1, 1), "original for FP16 and engines, not grouped: 9 kernels for 10, 6 syncs for 4"),
        (BuildEstimate(8, 0, 1, 3_000_001), "original for FP16 and engines, not grouped: 8 kernels for 10"),
    ],
)
def test_where_engines_are_asked_for_the_builder_has_the_last_word(
    given: StageInputs, monkeypatch: pytest.MonkeyPatch, with_engine: Options, new: BuildEstimate, remark: str
) -> None:
    forms = rewrites_forms.candidates(onnx.load(given.latest(Kind.GRAPH).path))
    results = {id(forms[0].model): OLD, id(forms[-1].model): new}
    monkeypatch.setattr(rewrite, "_fp16", lambda model: model)
    monkeypatch.setattr(tensorrt_estimate, "estimate", lambda model, *_: results[id(model)])
    form, (line,) = rewrite._for_engine(forms, Job(TINY, with_engine))
    assert form is forms[0 if remark.startswith("original") else -1]
    assert line.startswith(remark)
    assert line.endswith("(estimated from TensorRT-RTX's build log)")


@pytest.mark.parametrize(
    ("asked", "remark"),
    [
        ("original", "original, as asked for"),
        ("folded", "folded, as asked for"),
        ("fewest-nodes", "fewest-nodes, as asked for"),
    ],
)
def test_a_form_that_is_asked_for_is_made(given: StageInputs, tmp_path: Path, asked: str, remark: str) -> None:
    assert make(given, tmp_path / "model.onnx", asked)["remarks"] == [remark]


def test_only_what_serves_is_timed(given: StageInputs, tmp_path: Path) -> None:
    notes = make(given, tmp_path / "model.onnx", runner="reference")
    assert notes["remarks"][0] == "original: only ONNX Runtime is timed"


def spoiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the rewrites gets a weight wrong."""
    honest = rewrites_forms.candidates

    def candidates(model: onnx.ModelProto, recipes: Mapping[str, tuple[str, ...]]) -> list[rewrites_forms.Candidate]:
        forms = honest(model, recipes)
        weight = next(each for each in forms[-1].model.graph.initializer if len(each.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), weight.name))
        return forms

    monkeypatch.setattr(rewrites_forms, "candidates", candidates)


def test_a_form_that_computes_something_else_is_never_kept(
    given: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiling(monkeypatch)
    speeds(monkeypatch, {"grouped": 1.0})
    notes = make(given, tmp_path / "model.onnx")
    assert notes["chosen"] == "original"
    assert notes["remarks"][-1].startswith("grouped is not what it replaces: ")
    with pytest.raises(ParityFailed, match="--rewrite grouped: grouped is not what it replaces"):
        make(given, tmp_path / "model.onnx", "grouped")


@pytest.mark.parametrize("form", ["folded", "grouped", "partitioned", "fewest-nodes"])
def test_a_form_that_nobody_asked_for_by_name_is_left_out_where_it_strays(
    given: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    spoiling(monkeypatch)
    notes = make(given, tmp_path / "model.onnx", form, rewrite_implied=True)
    assert (notes["chosen"], notes["for_engine"]) == ("original", "original")
    assert notes["remarks"][0] == f"original: {form} is left out"
    assert notes["remarks"][1].startswith(f"{form} is not what it replaces: ")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == given.latest(Kind.GRAPH).path.read_bytes()


def test_a_form_that_quick_has_is_kept_where_it_holds(given: StageInputs, tmp_path: Path) -> None:
    notes = make(given, tmp_path / "model.onnx", "folded", rewrite_implied=True)
    assert (notes["chosen"], notes["remarks"]) == ("folded", ["folded, as --quick has it"])


@pytest.mark.parametrize("error", [KeyError("axis"), IndexError("list index out of range"), AssertionError()])
def test_a_rewrite_that_stumbles_costs_its_own_forms_alone(
    given: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def stumbling(graph: EditableGraph) -> Outcome:
        raise error

    monkeypatch.setattr(gather_shuffle, "apply", stumbling)
    speeds(monkeypatch, {"folded": 4.0})
    notes = make(given, tmp_path / "model.onnx")
    assert notes["chosen"] == "folded"
    assert notes["remarks"][-1].startswith(f"grouped cannot be made: {type(error).__name__}")
    with pytest.raises(ParityFailed, match="--rewrite grouped: grouped cannot be made"):
        make(given, tmp_path / "model.onnx", "grouped")


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("named", [None, "folded"])
def test_only_a_form_that_is_named_is_asked_for(tmp_path: Path, named: str | None, quick: bool) -> None:
    plan = plan_export(TINY, ExportOptions(quick=quick, rewrite=named, out=tmp_path / "run"))
    assert plan.options.rewrite_implied == (quick and named is None)


def test_a_form_that_is_no_graph_is_left_out(
    given: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = rewrites_forms.candidates

    def candidates(model: onnx.ModelProto, recipes: Mapping[str, tuple[str, ...]]) -> list[rewrites_forms.Candidate]:
        forms = honest(model, recipes)
        forms[-1].model.graph.node[2].input[0] = "nobody"
        return forms

    monkeypatch.setattr(rewrites_forms, "candidates", candidates)
    speeds(monkeypatch, {"grouped": 1.0})
    notes = make(given, tmp_path / "model.onnx")
    assert notes["chosen"] != "grouped"
    assert notes["remarks"][-1].startswith("grouped is no sound graph: ")
