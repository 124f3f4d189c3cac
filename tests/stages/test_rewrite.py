"""Tests of the rewrite stage: the choice of a form, its checks and its remarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploytool import serde
from deploytool.backends import onnxruntime, openvino, tensorrt_estimate
from deploytool.backends.session import Session
from deploytool.backends.tensorrt_estimate import BuildEstimate
from deploytool.benchmark import form_timing, machine_state
from deploytool.benchmark.interleave import TimingSeries
from deploytool.benchmark.machine_state import Conditions
from deploytool.benchmark.ratio import Ratio
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
from tests.benchmark.simulated_machine import series
from tests.conftest import QUICK, TINY, artifacts


@pytest.fixture
def inputs(finished: Path) -> StageInputs:
    """The inputs of the rewrite stage."""
    stages = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY)
    return StageInputs(tuple(artifact for artifact in artifacts(finished).artifacts if artifact.made_by in stages))


def make(inputs: StageInputs, out: Path, form: str = "auto", **options: Any) -> dict[str, Any]:
    return dict(rewrite.make(Job(TINY, dataclasses.replace(QUICK, rewrite=form, **options)), out, inputs))


def fake_timing(
    monkeypatch: pytest.MonkeyPatch, times: Mapping[str, float], busy: Mapping[str, float] | None = None
) -> list[list[str]]:
    """Replaces the timing: every call of a form takes `times` milliseconds of processor time, by default 10.

    The wall time is the same; with `busy`, it is that (by default 30), as on a busy machine. Returns the list of the
    forms that are timed together.
    """
    timed: list[list[str]] = []

    def time_watched(
        calls: Mapping[str, Callable[[], object]], seconds: float, threads: int
    ) -> tuple[dict[str, TimingSeries], Conditions]:
        timed.append(list(calls))
        for call in calls.values():
            call()
        cpu_times = {name: np.full(9, times.get(name, 10.0)) for name in calls}
        timings = {name: series(cpu_time) for name, cpu_time in cpu_times.items()}
        if busy is not None:
            walls = {name: np.full(9, busy.get(name, 30.0)) for name in calls}
            timings = {name: TimingSeries(wall, cpu_times[name], 0.9 * threads * wall) for name, wall in walls.items()}
        return timings, Conditions(threads, 2, 0.0, 0.0, 1.0, 1.0, 1.0, (), (), None)

    monkeypatch.setattr(machine_state, "time_watched", time_watched)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    return timed


def test_the_fastest_form_is_kept(inputs: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_timing(monkeypatch, {"folded": 4.0, "grouped": 8.0})
    notes = make(inputs, tmp_path / "model.onnx")
    assert notes["chosen"] == "folded"
    assert notes["remarks"] == [
        "folded, compared with original, grouped: 2.50× (2.50–2.50) the original graph's speed at batch 1, "
        "2.50× (2.50–2.50) the original graph's speed at batch 8 (measured)",
        "FP16 and engines use grouped: 11 nodes instead of 15 (estimated)",
    ]
    kept = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(kept, full_check=True)
    assert "GlobalAveragePool" in {node.op_type for node in kept.graph.node}
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "engine.onnx"}


def test_a_form_that_is_not_significantly_faster_is_not_kept(
    inputs: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_timing(monkeypatch, {})
    notes = make(inputs, tmp_path / "model.onnx")
    assert notes["chosen"] == "original"
    assert notes["remarks"][0] == "original: none of folded, grouped is significantly faster (measured)"
    assert (tmp_path / "model.onnx").read_bytes() == inputs.latest(Kind.GRAPH).path.read_bytes()


def test_slow_forms_and_long_timings_are_skipped_at_the_larger_batch_size(
    inputs: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = fake_timing(monkeypatch, {"grouped": 10.5})  # 0.95× would not be kept, whatever its speed at batch 8
    make(inputs, tmp_path / "model.onnx")
    assert timed == [["original", "folded", "grouped"], ["original", "folded"]]
    timed = fake_timing(monkeypatch, {})
    make(inputs, tmp_path / "model.onnx", batch=Range(1, 500, 1000))
    assert len(timed) == 1


def test_on_a_busy_machine_one_thread_is_timed_by_processor_time(
    inputs: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = fake_timing(monkeypatch, {"folded": 4.0}, busy={"grouped": 2.0})
    notes = make(inputs, tmp_path / "model.onnx")
    assert notes["chosen"] == "folded"
    how = "(measured in CPU time on one thread: original waited for a processor in 100% of its rounds)"
    assert notes["remarks"][0].endswith(how)
    assert timed == [["original", "folded", "grouped"]] * 3  # once without a result, and then at both batch sizes


def test_all_forms_are_timed(inputs: StageInputs, tmp_path: Path) -> None:
    notes = make(inputs, tmp_path / "model.onnx")
    results = {candidate["names"][0]: candidate for candidate in notes["candidates"]}
    assert set(results) == {"original", "folded", "grouped"}
    assert all(candidate["max_error"] <= 1e-5 for candidate in results.values())
    assert all("1" in candidate["faster_than_original"] for candidate in results.values())
    outcomes = serde.decode(Mapping[str, Outcome], notes["rewrites"])  # type: ignore[type-abstract]  # a hint as it is
    assert outcomes["pool_globally"].applied == ("/GlobalAveragePool",)
    assert outcomes["merge_siblings"].applied == ()
    assert outcomes["merge_siblings"].skipped


@pytest.mark.parametrize(
    ("in_openvino", "form"),
    [({"grouped": 1.3}, "grouped"), ({"folded": 1.5, "grouped": 1.51}, "folded"), ({}, "original")],
)
def test_openvino_can_have_another_form(
    in_openvino: Mapping[str, float],
    form: str,
    inputs: StageInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    both_runtimes: None,
) -> None:
    """ONNX Runtime is fastest with `folded`; another form gets a file if it is more than 2 % faster in OpenVINO."""
    speeds = iter([{"folded": 2.0}, in_openvino])

    def time(sessions: Mapping[str, object], *_: object) -> tuple[form_timing.Trials, None]:
        given = {"original": 1.0, "folded": 0.9, "grouped": 0.9, **next(speeds)}
        return {name: {1: Ratio(*[given[name]] * 3)} for name in sessions}, None

    monkeypatch.setattr(openvino, "is_installed", lambda: True)
    monkeypatch.setattr(form_timing, "measure", time)
    notes = make(inputs, tmp_path / "model.onnx")
    assert (notes["chosen"], notes["for_openvino"]) == ("folded", form)
    written = tmp_path / "openvino.onnx"
    assert written.exists() == (form != "folded")
    if form == "original":
        assert written.read_bytes() == inputs.latest(Kind.GRAPH).path.read_bytes()
    if form != "folded":
        assert [line for line in notes["remarks"] if line.startswith(f"OpenVINO uses {form}: ")]


def test_a_form_that_is_wrong_in_openvino_gets_no_file(
    inputs: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def start(path: Path, device: str = "cpu", threads: int = 0) -> Iterator[Session]:
        with onnxruntime.start(path) as session:
            yield lambda **arrays: {name: array + 0.1 for name, array in session(**arrays).items()}

    speeds = iter([2.0, 0.5])

    def time(sessions: Mapping[str, object], *_: object) -> tuple[form_timing.Trials, None]:
        folded = next(speeds)
        return {name: {1: Ratio(*[folded if name == "folded" else 1.0] * 3)} for name in sessions}, None

    monkeypatch.setattr(openvino, "is_installed", lambda: True)
    monkeypatch.setattr(openvino, "start", start)
    monkeypatch.setattr(form_timing, "measure", time)
    notes = make(inputs, tmp_path / "model.onnx")
    assert (notes["chosen"], notes["for_openvino"]) == ("folded", "folded")
    assert any("original in OpenVINO deviates from the original" in line for line in notes["remarks"])


def test_engines_can_have_another_form(inputs: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_timing(monkeypatch, {"folded": 4.0})
    notes = make(inputs, tmp_path / "model.onnx")
    assert (notes["chosen"], notes["for_engine"]) == ("folded", "grouped")
    graph = Artifact(Kind.GRAPH, tmp_path / "model.onnx", "digest", "key", Stage.REWRITE, {}, 0.0, fresh=True)
    fp16.make(Job(TINY, QUICK), tmp_path / "half.onnx", StageInputs((graph,)))
    operators = [node.op_type for node in onnx.load(tmp_path / "half.onnx").graph.node]
    assert "Gather" in operators
    assert "Transpose" not in operators


def test_a_requested_form_is_used_for_engines_too(inputs: StageInputs, tmp_path: Path) -> None:
    make(inputs, tmp_path / "model.onnx", "folded")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_form_with_much_larger_weights_is_not_used_for_engines(inputs: StageInputs) -> None:
    original, *_, grouped = rewrites_forms.candidates(onnx.load(inputs.latest(Kind.GRAPH).path))
    job = Job(TINY, QUICK)
    assert rewrite._for_engine([original, grouped], job)[0] is grouped
    ballast = np.zeros(original.weights, np.float32)
    grouped.model.graph.initializer.append(numpy_helper.from_array(ballast, "ballast"))
    assert rewrite._for_engine([original, grouped], job) == (original, [])


OLD = BuildEstimate(kernels=10, syncs=4, traffic=8_000_000, size=2_000_000)


@pytest.mark.parametrize(
    ("new", "remark"),
    [
        (
            BuildEstimate(8, 0, 9_000_000, 3_000_000),
            "FP16 and engines use grouped: it has 8 kernels instead of 10, 0 syncs instead of 4, 9.0 MB of",
        ),
        (BuildEstimate(10, 4, 1, 1), "FP16 and engines use the original graph: grouped has 10 kernels instead of 10"),
        (
            BuildEstimate(9, 6, 1, 1),
            "FP16 and engines use the original graph: grouped has 9 kernels instead of 10, 6 syncs instead of 4",
        ),
        (
            BuildEstimate(8, 0, 1, 3_000_001),
            "FP16 and engines use the original graph: grouped has 8 kernels instead of 10",
        ),
    ],
)
def test_the_build_estimate_decides_on_the_form_for_engines(
    inputs: StageInputs, monkeypatch: pytest.MonkeyPatch, with_engine: Options, new: BuildEstimate, remark: str
) -> None:
    forms = rewrites_forms.candidates(onnx.load(inputs.latest(Kind.GRAPH).path))
    results = {id(forms[0].model): OLD, id(forms[-1].model): new}
    monkeypatch.setattr(rewrite, "_fp16", lambda model: model)
    monkeypatch.setattr(tensorrt_estimate, "estimate", lambda model, *_: results[id(model)])
    form, (line,) = rewrite._for_engine(forms, Job(TINY, with_engine))
    assert form is forms[0 if "the original graph:" in remark else -1]
    assert line.startswith(remark)
    assert line.endswith("(estimated from TensorRT-RTX's build log)")


@pytest.mark.parametrize(
    ("form", "remark"),
    [
        ("original", "original, as requested"),
        ("folded", "folded, as requested"),
        ("fewest-nodes", "fewest-nodes, as requested"),
    ],
)
def test_a_requested_form_is_written(inputs: StageInputs, tmp_path: Path, form: str, remark: str) -> None:
    assert make(inputs, tmp_path / "model.onnx", form)["remarks"] == [remark]


def test_other_runners_are_not_timed(inputs: StageInputs, tmp_path: Path) -> None:
    notes = make(inputs, tmp_path / "model.onnx", runner="reference")
    assert notes["remarks"][0] == "original: other forms are timed with ONNX Runtime only"


def plant_wrong_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the last form have a wrong weight."""
    make_candidates = rewrites_forms.candidates

    def candidates(model: onnx.ModelProto, recipes: Mapping[str, tuple[str, ...]]) -> list[rewrites_forms.Candidate]:
        forms = make_candidates(model, recipes)
        weight = next(tensor for tensor in forms[-1].model.graph.initializer if len(tensor.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), weight.name))
        return forms

    monkeypatch.setattr(rewrites_forms, "candidates", candidates)


def test_a_form_that_is_not_equivalent_is_never_kept(
    inputs: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_wrong_weight(monkeypatch)
    fake_timing(monkeypatch, {"grouped": 1.0})
    notes = make(inputs, tmp_path / "model.onnx")
    assert notes["chosen"] == "original"
    assert notes["remarks"][-1].startswith("grouped deviates from the original: ")
    with pytest.raises(ParityFailed, match="--rewrite grouped: grouped deviates from the original"):
        make(inputs, tmp_path / "model.onnx", "grouped")


@pytest.mark.parametrize("form", ["folded", "grouped", "partitioned", "fewest-nodes"])
def test_an_implied_form_that_is_not_equivalent_is_left_out(
    inputs: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    plant_wrong_weight(monkeypatch)
    notes = make(inputs, tmp_path / "model.onnx", form, rewrite_implied=True)
    assert (notes["chosen"], notes["for_engine"]) == ("original", "original")
    assert notes["remarks"][0] == f"original: {form} failed"
    assert notes["remarks"][1].startswith(f"{form} deviates from the original: ")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == inputs.latest(Kind.GRAPH).path.read_bytes()


def test_an_implied_form_that_is_equivalent_is_kept(inputs: StageInputs, tmp_path: Path) -> None:
    notes = make(inputs, tmp_path / "model.onnx", "folded", rewrite_implied=True)
    assert (notes["chosen"], notes["remarks"]) == ("folded", ["folded, as --quick implies"])


@pytest.mark.parametrize("error", [KeyError("axis"), IndexError("list index out of range"), AssertionError()])
def test_a_rewrite_that_raises_affects_only_its_own_forms(
    inputs: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(graph: EditableGraph) -> Outcome:
        raise error

    monkeypatch.setattr(gather_shuffle, "apply", fail)
    fake_timing(monkeypatch, {"folded": 4.0})
    notes = make(inputs, tmp_path / "model.onnx")
    assert notes["chosen"] == "folded"
    assert notes["remarks"][-1].startswith(f"grouped cannot be applied: {type(error).__name__}")
    with pytest.raises(ParityFailed, match="--rewrite grouped: grouped cannot be applied"):
        make(inputs, tmp_path / "model.onnx", "grouped")


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("form", [None, "folded"])
def test_a_form_is_implied_by_quick_only_without_a_requested_one(tmp_path: Path, form: str | None, quick: bool) -> None:
    plan = plan_export(TINY, ExportOptions(quick=quick, rewrite=form, out=tmp_path / "run"))
    assert plan.options.rewrite_implied == (quick and form is None)


def test_a_form_that_is_an_invalid_graph_is_left_out(
    inputs: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_candidates = rewrites_forms.candidates

    def candidates(model: onnx.ModelProto, recipes: Mapping[str, tuple[str, ...]]) -> list[rewrites_forms.Candidate]:
        forms = make_candidates(model, recipes)
        forms[-1].model.graph.node[2].input[0] = "unknown"
        return forms

    monkeypatch.setattr(rewrites_forms, "candidates", candidates)
    fake_timing(monkeypatch, {"grouped": 1.0})
    notes = make(inputs, tmp_path / "model.onnx")
    assert notes["chosen"] != "grouped"
    assert notes["remarks"][-1].startswith("grouped is not a valid graph: ")
