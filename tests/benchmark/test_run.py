"""Benchmarks of the tiny model's run: rows, verdicts, baselines, the gate and the file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from deploytool import serde
from deploytool.backends import eager, eager_variants
from deploytool.backends.session import Session
from deploytool.benchmark import interleave, machine_state, result, run
from deploytool.benchmark.machine_state import Conditions
from deploytool.benchmark.ratio import Ratio
from deploytool.benchmark.result import BatchResult, Bench, Row
from deploytool.benchmark.run import BenchOptions
from deploytool.errors import BadInput, MissingBackend, StageFailed
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity.checks import PlannedComparison
from deploytool.spec import GateOutcome, Precision, SpeedVerdict, Stage, Status
from tests.benchmark.simulated_machine import series
from tests.conftest import artifacts

EVEN = Conditions(1, 2, 0.1, 0.0, 1.0, 1.0, 1.0, (), (), None)
ARTIFACTS = ["torchscript", "export", "simplify", "rewrite", "fp16", "build/model.plan"]
KNOWN_MS = {"torchscript": 30.0, "export": 5.0, "simplify": 5.05, "rewrite": 4.0, "fp16": 10.0}
ROUNDING = 5.1e-5  # ms: single times are rounded to four decimals, percentiles are not


def ignore_progress(done: int, total: int) -> None:
    pass


def options(
    batches: tuple[int, ...] = (1,), baseline: str = "eager", device: str = "cpu", min_speedup: float | None = None
) -> BenchOptions:
    return BenchOptions(batches, 1, 0.05, device=device, baseline=baseline, min_speedup=min_speedup)


@pytest.fixture
def inputs(finished: Path) -> StageInputs:
    return artifacts(finished)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, object]]:
    """Replaces the timing: each call runs once and takes the time in `KNOWN_MS`, else 20 ms; holds the outputs."""
    called: list[Mapping[str, object]] = []

    def time_watched(calls: Mapping[str, Callable[[], object]], *_: object, **__: object) -> tuple[object, Conditions]:
        called.append({name: call() for name, call in calls.items()})
        rng = np.random.default_rng(0)
        noise = {name: np.exp(0.001 * rng.standard_normal(120)) for name in calls}
        return {name: series(KNOWN_MS.get(name, 20.0) * noise[name]) for name in calls}, EVEN

    monkeypatch.setattr(machine_state, "time_watched", time_watched)
    return called


def verdicts(sweep: BatchResult) -> dict[str, str | None]:
    return {row.name: row.verdict for row in sweep.rows if row.latency}


def test_the_graph_has_a_row_in_openvino_that_no_gate_looks_at(
    finished: Path, inputs: StageInputs, known: list[Mapping[str, object]], both_runtimes: None
) -> None:
    bench = run.run(finished, inputs, options(min_speedup=1.5), ignore_progress)
    row = bench.sweeps[0].rows[-1]
    assert (row.name, row.status) == ("openvino", Status.MEASURED)
    assert row.latency is not None
    assert 19 < row.latency.p50_ms < 21  # slower than the gate allows
    assert bench.gate is not None
    assert "openvino" not in str(bench.gate)
    (outputs,) = known
    expected, answer = (outputs[name]["logits"] for name in ("rewrite", "openvino"))  # type: ignore[index]
    np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_every_artifact_and_eager_variant_has_a_row(finished: Path, inputs: StageInputs) -> None:
    bench = run.run(finished, inputs, options(batches=(1, 3)), ignore_progress)
    assert [sweep.batch for sweep in bench.sweeps] == [1, 3]
    for sweep in bench.sweeps:
        assert [row.name for row in sweep.rows] == ["eager", "channels_last", "compile", *ARTIFACTS]
        status = {row.name: row.status for row in sweep.rows}
        assert status["build/model.plan"] is Status.BUILT_NOT_RUN
        assert status["compile"] is Status.UNAVAILABLE
        timed = [row.latency for row in sweep.rows if row.status is Status.MEASURED]
        for latency in timed:
            assert latency is not None
            assert len(latency.wall_ms) == sweep.rounds >= interleave.MIN_ROUNDS
            low, high = min(latency.wall_ms) - ROUNDING, max(latency.wall_ms) + ROUNDING
            assert low <= latency.p50_ms <= latency.p90_ms <= high
            assert latency.cpu_ms > 0
    assert bench.files["rewrite/model.onnx"] == serde.file_digest(finished / "rewrite" / "model.onnx")
    assert set(bench.files) == {"load/weights.safetensors", "torchscript/model.pt", "build/model.plan"} | {
        f"{stage}/model.onnx" for stage in ("export", "simplify", "rewrite", "fp16")
    }


def test_known_times_give_the_known_verdicts(
    finished: Path,
    inputs: StageInputs,
    known: list[Mapping[str, Mapping[str, np.ndarray]]],
) -> None:
    bench = run.run(finished, inputs, options(batches=(2,)), ignore_progress)
    (sweep,) = bench.sweeps
    expected = {
        "eager": None,
        "channels_last": SpeedVerdict.NEITHER,
        "torchscript": SpeedVerdict.SLOWER,
        "export": SpeedVerdict.FASTER,
        "simplify": SpeedVerdict.FASTER,
    }
    assert verdicts(sweep) == {**expected, "rewrite": SpeedVerdict.FASTER, "fp16": SpeedVerdict.FASTER}
    rewrite = next(row for row in sweep.rows if row.name == "rewrite")
    assert rewrite.ratio is not None
    assert rewrite.ratio.value == pytest.approx(5, rel=0.01)
    assert rewrite.cpu_ratio is not None
    assert rewrite.cpu_ratio.value == pytest.approx(5, rel=0.01)
    assert rewrite.latency is not None
    assert rewrite.latency.p99_ms == pytest.approx(np.percentile(rewrite.latency.wall_ms, 99), abs=1e-3)
    assert {len(answers["logits"]) for answers in known[0].values()} == {2}


@pytest.mark.usefixtures("known")
def test_several_threads_have_no_cpu_ratio(finished: Path, inputs: StageInputs) -> None:
    (sweep,) = run.run(finished, inputs, dataclasses.replace(options(), threads=2), ignore_progress).sweeps
    assert {row.cpu_ratio for row in sweep.rows} == {None}


def test_another_baseline(
    finished: Path, inputs: StageInputs, known: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN_MS, "the baseline again", KNOWN_MS["export"])
    (sweep,) = run.run(finished, inputs, options(baseline="export"), ignore_progress).sweeps
    by_row = verdicts(sweep)
    assert (by_row["export"], by_row["simplify"], by_row["rewrite"], by_row["eager"]) == (
        None,
        SpeedVerdict.NEITHER,
        SpeedVerdict.FASTER,
        SpeedVerdict.SLOWER,
    )
    with pytest.raises(BadInput, match="no 'warp' to measure against"):
        run.run(finished, inputs, options(baseline="warp"), ignore_progress)
    with pytest.raises(MissingBackend, match="built, not run"):
        run.run(finished, inputs, options(baseline="build"), ignore_progress)


@pytest.mark.usefixtures("known")
def test_a_difference_within_that_of_two_baseline_sessions_is_neither(
    finished: Path, inputs: StageInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN_MS, "the baseline again", 20.0 / 1.3)
    monkeypatch.setitem(KNOWN_MS, "export", 20.0 / 1.25)
    (sweep,) = run.run(finished, inputs, options(), ignore_progress).sweeps
    assert sweep.control.value == pytest.approx(1.3, rel=0.01)
    assert (verdicts(sweep)["export"], verdicts(sweep)["rewrite"]) == (SpeedVerdict.NEITHER, SpeedVerdict.FASTER)


@pytest.mark.parametrize(
    ("min_speedup", "deployed", "outcome"),
    [
        (4.9, ("export", "rewrite"), GateOutcome.REACHED),
        (5.1, ("export", "rewrite"), GateOutcome.MISSED),
        (5.0, ("rewrite",), GateOutcome.OPEN),
        (0.1, ("build/model.plan",), GateOutcome.OPEN),
    ],
)
def test_the_gate_is_for_the_deployed_artifacts(
    finished: Path,
    inputs: StageInputs,
    known: list[object],
    min_speedup: float,
    deployed: tuple[str, ...],
    outcome: str,
) -> None:
    sweeps = run.run(finished, inputs, options(batches=(1, 2)), ignore_progress).sweeps
    gate = result.gate(min_speedup, sweeps, [deployed])
    assert gate is not None
    assert (gate.name, gate.outcome) == (deployed[-1], outcome)
    assert result.gate(None, sweeps, [deployed]) is None


def test_a_missed_batch_size_outweighs_an_open_one() -> None:
    def sweep(batch: int, low: float, high: float) -> BatchResult:
        speedup = Ratio((low + high) / 2, low, high)
        row = Row("rewrite", "model.onnx", "onnxruntime", Status.MEASURED, ratio=speedup, verdict=SpeedVerdict.FASTER)
        return BatchResult(batch, 9, EVEN, speedup, (row,))

    reached, uncertain, missed = sweep(1, 2.1, 2.2), sweep(4, 1.9, 2.2), sweep(8, 1.5, 1.6)
    for sweeps, outcome in (
        ((reached, uncertain, missed), GateOutcome.MISSED),
        ((missed, uncertain, reached), GateOutcome.MISSED),
        ((reached, uncertain, reached), GateOutcome.OPEN),
        ((reached, reached), GateOutcome.REACHED),
    ):
        gate = result.gate(2.0, sweeps, [["rewrite"]])
        assert gate is not None
        assert gate.outcome == outcome


def test_a_run_with_an_engine_deploys_the_engine(finished: Path, inputs: StageInputs, known: list[object]) -> None:
    gate = run.run(finished, inputs, options(min_speedup=0.1), ignore_progress).gate
    assert gate is not None
    assert (gate.name, gate.outcome, gate.reason) == ("build/model.plan", GateOutcome.OPEN, "built, not run")


def test_the_file_is_valid_while_the_artifacts_are_unchanged(run_copy: Path, known: list[object]) -> None:
    bench = run.run(run_copy, artifacts(run_copy), options(), ignore_progress)
    assert result.write(run_copy, bench) == run_copy / "bench.json"
    assert result.read(run_copy) == bench
    assert isinstance(bench, Bench)
    assert result.read_matching(run_copy) == bench
    (run_copy / "rewrite" / "model.onnx").write_bytes(b"another")
    assert result.read_matching(run_copy) is None
    (run_copy / "bench.json").write_text(json.dumps({"schema": "another"}))
    with pytest.raises(BadInput, match="not a benchmark of this version"):
        result.read(run_copy)


def test_a_missing_gpu_is_an_error_not_a_fallback(finished: Path, inputs: StageInputs) -> None:
    if eager.devices()[-1] == "cpu":
        with pytest.raises(MissingBackend):
            run.run(finished, inputs, options(device="cuda"), ignore_progress)


class FakeGpuSession:
    """A session that records GPU times, with one from before the rounds."""

    def __init__(self, session: Callable[..., object], enqueue_ms: float) -> None:
        self._session = session
        self.gpu_ms, self.enqueue_ms = [9.0], [9.0]
        self._times = (2.0, enqueue_ms)

    def __call__(self, **inputs: object) -> object:
        self.gpu_ms += [self._times[0]] * 120
        self.enqueue_ms += [self._times[1]] * 120
        return self._session(**inputs)


@pytest.mark.parametrize(("enqueue_ms", "bound"), [(1.9, True), (0.3, False)])
def test_a_launch_bound_session_is_marked(
    finished: Path,
    inputs: StageInputs,
    known: list[object],
    monkeypatch: pytest.MonkeyPatch,
    enqueue_ms: float,
    bound: bool,
) -> None:
    start = eager_variants.start

    @contextmanager
    def fake_start(path: Path, device: str = "cpu", variant: str = "eager") -> Iterator[object]:
        with start(path, device, variant) as session:
            yield FakeGpuSession(session, enqueue_ms)

    monkeypatch.setattr(eager_variants, "start", fake_start)
    (sweep,) = run.run(finished, inputs, options(), ignore_progress).sweeps
    eager_row, graph_row = sweep.rows[0].latency, sweep.rows[-2].latency
    assert eager_row is not None
    assert graph_row is not None
    assert (eager_row.gpu_ms, eager_row.enqueue_ms, eager_row.launch_bound) == (2.0, enqueue_ms, bound)
    assert (graph_row.gpu_ms, graph_row.launch_bound) == (None, None)


def test_a_variant_that_torch_cannot_run_has_a_reason(
    finished: Path, inputs: StageInputs, known: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = eager_variants.start

    @contextmanager
    def fake_start(path: Path, device: str = "cpu", variant: str = "eager") -> Iterator[object]:
        if variant != "channels_last":
            with start(path, device, variant) as session:
                yield session
            return

        def fail(**_: object) -> None:
            raise StageFailed("no compiler answers", "install one")

        yield fail

    monkeypatch.setattr(eager_variants, "start", fake_start)
    (sweep,) = run.run(finished, inputs, options(), ignore_progress).sweeps
    assert {row.name: row.reason for row in sweep.rows}["channels_last"] == "no compiler answers"
    with pytest.raises(StageFailed, match="no compiler answers"):
        run.run(finished, inputs, options(baseline="channels_last"), ignore_progress)


@pytest.mark.gpu
def test_all_eager_variants_are_timed_on_a_gpu(finished: Path, inputs: StageInputs) -> None:
    (sweep,) = run.run(finished, inputs, options(device="cuda"), ignore_progress).sweeps
    rows = {row.name: row for row in sweep.rows}
    for variant in ("eager", "channels_last", "fp16", "cuda_graph"):
        latency = rows[variant].latency
        assert latency is not None, rows[variant].status
        assert latency.gpu_ms is not None
        assert 0 < latency.gpu_ms <= latency.p50_ms
        assert latency.launch_bound is not None
    assert sweep.conditions.gpu


def test_the_gate_of_a_run_in_int8_is_for_the_fastest_runtime_of_int8() -> None:
    """FP16 is judged too if it was asked for; what nothing here times is judged by what else ships."""

    def unopened() -> AbstractContextManager[Session]:
        raise AssertionError("nothing runs here")

    def step(stage: Stage, runner: str, precision: Precision = Precision.FP32) -> PlannedComparison:
        graph = None if stage is Stage.BUILD else Path("model.onnx")
        return PlannedComparison(stage, "fp8.plan", runner, "cpu", "", unopened, graph, precision=precision)

    def sweep(*names: str) -> BatchResult:
        rows = [Row(name, "", "", Status.MEASURED, ratio=Ratio(1.0, 1.0, 1.0)) for name in names]
        return BatchResult(1, 9, EVEN, Ratio(1.0, 1.0, 1.0), tuple(rows))

    int8 = [step(Stage.INT8, runner) for runner in ("onnxruntime", "openvino")]
    steps = [step(Stage.REWRITE, "onnxruntime"), *int8, step(Stage.BUILD, "tensorrt_rtx", Precision.FP8)]
    assert [run.row_name(each) for each in steps] == ["rewrite", "int8", "int8 in OpenVINO", "build/fp8.plan"]
    timed, both = [sweep("rewrite", "int8", "int8 in OpenVINO")], ["int8", "int8 in OpenVINO"]
    assert run._groups(steps, timed, (Precision.INT8,)) == [both]
    assert run._groups(steps, timed, (Precision.FP16, Precision.INT8)) == [both, ["rewrite"]]
    for asked in ((), (Precision.FP16,), (Precision.FP8,)):
        assert run._groups(steps, timed, asked) == [["rewrite"]]
    on_gpu = [sweep("rewrite", "build/fp8.plan")]
    assert run._groups(steps, on_gpu, (Precision.INT8, Precision.FP8)) == [["build/fp8.plan"]]
