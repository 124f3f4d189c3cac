from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from deploytool import serde
from deploytool.backends import eager, eager_variants
from deploytool.benchmark import interleave, machine_state, result, run
from deploytool.benchmark.interleave import TimingSeries
from deploytool.benchmark.machine_state import Conditions
from deploytool.benchmark.ratio import Ratio
from deploytool.benchmark.result import BatchResult, Bench, Row
from deploytool.benchmark.run import BenchOptions
from deploytool.errors import BadInput, MissingBackend, StageFailed
from deploytool.loading.stage_inputs import StageInputs
from deploytool.spec import GateOutcome, SpeedVerdict, Status
from tests.conftest import artifacts
from tests.parity.pretended import series

EVEN = Conditions(1, 2, 0.1, 0.0, 1.0, 1.0, 1.0, (), (), None)
ARTIFACTS = ["torchscript", "export", "simplify", "rewrite", "fp16", "build/model.plan"]
KNOWN = {"torchscript": 30.0, "export": 5.0, "simplify": 5.05, "rewrite": 4.0, "fp16": 10.0}
Watched = Callable[..., tuple[dict[str, TimingSeries], Conditions]]


def unwatched(done: int, total: int) -> None:
    pass


def asked(
    batches: tuple[int, ...] = (1,), baseline: str = "eager", device: str = "cpu", min_speedup: float | None = None
) -> BenchOptions:
    return BenchOptions(batches, 1, 0.05, device=device, baseline=baseline, min_speedup=min_speedup)


@pytest.fixture
def given(finished: Path) -> StageInputs:
    return artifacts(finished)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, object]]:
    """Every call is made once and takes what `KNOWN` says, eager and all else 20 ms, more at larger batches."""
    called: list[Mapping[str, object]] = []

    def watched(calls: Mapping[str, Callable[[], object]], *_: object, **__: object) -> tuple[object, Conditions]:
        called.append({name: call() for name, call in calls.items()})
        rng = np.random.default_rng(0)
        noise = {name: np.exp(0.001 * rng.standard_normal(120)) for name in calls}
        return {name: series(KNOWN.get(name, 20.0) * noise[name]) for name in calls}, EVEN

    monkeypatch.setattr(machine_state, "time_watched", watched)
    return called


def verdicts(sweep: BatchResult) -> dict[str, str | None]:
    return {row.name: row.verdict for row in sweep.rows if row.latency}


def test_every_artifact_and_form_of_eager_has_its_row(finished: Path, given: StageInputs) -> None:
    found = run.run(finished, given, asked(batches=(1, 3)), unwatched)
    assert [sweep.batch for sweep in found.sweeps] == [1, 3]
    for sweep in found.sweeps:
        assert [row.name for row in sweep.rows] == ["eager", "channels_last", "compile", *ARTIFACTS]
        status = {row.name: row.status for row in sweep.rows}
        assert status["build/model.plan"] is Status.BUILT_NOT_RUN
        assert status["compile"] is Status.UNAVAILABLE
        timed = [row.latency for row in sweep.rows if row.status is Status.MEASURED]
        for each in timed:
            assert each is not None
            assert len(each.wall_ms) == sweep.rounds >= interleave.MIN_ROUNDS
            assert min(each.wall_ms) <= each.p50_ms <= each.p90_ms <= max(each.wall_ms)
            assert each.cpu_ms > 0
    assert found.files["rewrite/model.onnx"] == serde.file_digest(finished / "rewrite" / "model.onnx")
    assert set(found.files) == {"load/weights.safetensors", "torchscript/model.pt", "build/model.plan"} | {
        f"{verb}/model.onnx" for verb in ("export", "simplify", "rewrite", "fp16")
    }


def test_known_times_give_the_known_words(
    finished: Path,
    given: StageInputs,
    known: list[Mapping[str, Mapping[str, np.ndarray]]],
) -> None:
    found = run.run(finished, given, asked(batches=(2,)), unwatched)
    (sweep,) = found.sweeps
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
def test_processor_time_of_several_threads_is_no_ratio(finished: Path, given: StageInputs) -> None:
    (sweep,) = run.run(finished, given, dataclasses.replace(asked(), threads=2), unwatched).sweeps
    assert {row.cpu_ratio for row in sweep.rows} == {None}


def test_another_baseline(
    finished: Path, given: StageInputs, known: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN, "the baseline again", KNOWN["export"])
    (sweep,) = run.run(finished, given, asked(baseline="export"), unwatched).sweeps
    found = verdicts(sweep)
    assert (found["export"], found["simplify"], found["rewrite"], found["eager"]) == (
        None,
        SpeedVerdict.NEITHER,
        SpeedVerdict.FASTER,
        SpeedVerdict.SLOWER,
    )
    with pytest.raises(BadInput, match="no 'warp' to measure against"):
        run.run(finished, given, asked(baseline="warp"), unwatched)
    with pytest.raises(MissingBackend, match="built, not run"):
        run.run(finished, given, asked(baseline="build"), unwatched)


@pytest.mark.usefixtures("known")
def test_no_difference_counts_that_the_baseline_has_from_itself(
    finished: Path, given: StageInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN, "the baseline again", 20.0 / 1.3)
    monkeypatch.setitem(KNOWN, "export", 20.0 / 1.25)
    (sweep,) = run.run(finished, given, asked(), unwatched).sweeps
    assert sweep.control.value == pytest.approx(1.3, rel=0.01)
    assert (verdicts(sweep)["export"], verdicts(sweep)["rewrite"]) == (SpeedVerdict.NEITHER, SpeedVerdict.FASTER)


@pytest.mark.parametrize(
    ("wanted", "shipped", "outcome"),
    [
        (4.9, ("export", "rewrite"), GateOutcome.REACHED),
        (5.1, ("export", "rewrite"), GateOutcome.MISSED),
        (5.0, ("rewrite",), GateOutcome.OPEN),
        (0.1, ("build/model.plan",), GateOutcome.OPEN),
    ],
)
def test_the_gate_is_for_what_ships(
    finished: Path, given: StageInputs, known: list[object], wanted: float, shipped: tuple[str, ...], outcome: str
) -> None:
    sweeps = run.run(finished, given, asked(batches=(1, 2)), unwatched).sweeps
    gate = result.gate(wanted, sweeps, shipped)
    assert gate is not None
    assert (gate.name, gate.outcome) == (shipped[-1], outcome)
    assert result.gate(None, sweeps, shipped) is None


def test_a_batch_that_surely_misses_outweighs_one_that_is_open() -> None:
    def sweep(batch: int, low: float, high: float) -> BatchResult:
        found = Ratio((low + high) / 2, low, high)
        row = Row("rewrite", "model.onnx", "onnxruntime", Status.MEASURED, ratio=found, verdict=SpeedVerdict.FASTER)
        return BatchResult(batch, 9, EVEN, found, (row,))

    reached, unsure, missed = sweep(1, 2.1, 2.2), sweep(4, 1.9, 2.2), sweep(8, 1.5, 1.6)
    for sweeps, outcome in (
        ((reached, unsure, missed), GateOutcome.MISSED),
        ((missed, unsure, reached), GateOutcome.MISSED),
        ((reached, unsure, reached), GateOutcome.OPEN),
        ((reached, reached), GateOutcome.REACHED),
    ):
        gate = result.gate(2.0, sweeps, ["rewrite"])
        assert gate is not None
        assert gate.outcome == outcome


def test_a_run_with_an_engine_ships_the_engine(finished: Path, given: StageInputs, known: list[object]) -> None:
    gate = run.run(finished, given, asked(min_speedup=0.1), unwatched).gate
    assert gate is not None
    assert (gate.name, gate.outcome, gate.reason) == ("build/model.plan", GateOutcome.OPEN, "built, not run")


def test_the_file_says_what_was_found_while_its_subjects_last(run_copy: Path, known: list[object]) -> None:
    found = run.run(run_copy, artifacts(run_copy), asked(), unwatched)
    assert result.write(run_copy, found) == run_copy / "bench.json"
    assert result.read(run_copy) == found
    assert isinstance(found, Bench)
    assert result.read_matching(run_copy) == found
    (run_copy / "rewrite" / "model.onnx").write_bytes(b"another")
    assert result.read_matching(run_copy) is None
    (run_copy / "bench.json").write_text(json.dumps({"schema": "another"}))
    with pytest.raises(BadInput, match="no benchmark of this version"):
        result.read(run_copy)


def test_no_gpu_is_an_error_and_no_silent_fall_back(finished: Path, given: StageInputs) -> None:
    if eager.devices()[-1] == "cpu":
        with pytest.raises(MissingBackend):
            run.run(finished, given, asked(device="cuda"), unwatched)


class OnGpu:
    """A session that notes times as those on a GPU do, some from before the rounds among them."""

    def __init__(self, model: Callable[..., object], enqueue_ms: float) -> None:
        self._model = model
        self.gpu_ms, self.enqueue_ms = [9.0], [9.0]
        self._noted = (2.0, enqueue_ms)

    def __call__(self, **inputs: object) -> object:
        self.gpu_ms += [self._noted[0]] * 120
        self.enqueue_ms += [self._noted[1]] * 120
        return self._model(**inputs)


@pytest.mark.parametrize(("enqueue_ms", "bound"), [(1.9, True), (0.3, False)])
def test_a_gpu_that_waits_for_the_host_is_noticed(
    finished: Path,
    given: StageInputs,
    known: list[object],
    monkeypatch: pytest.MonkeyPatch,
    enqueue_ms: float,
    bound: bool,
) -> None:
    start = eager_variants.start

    @contextmanager
    def started(path: Path, device: str = "cpu", form: str = "eager") -> Iterator[object]:
        with start(path, device, form) as session:
            yield OnGpu(session, enqueue_ms)

    monkeypatch.setattr(eager_variants, "start", started)
    (sweep,) = run.run(finished, given, asked(), unwatched).sweeps
    eager_row, graph_row = sweep.rows[0].latency, sweep.rows[-2].latency
    assert eager_row is not None
    assert graph_row is not None
    assert (eager_row.gpu_ms, eager_row.enqueue_ms, eager_row.launch_bound) == (2.0, enqueue_ms, bound)
    assert (graph_row.gpu_ms, graph_row.launch_bound) == (None, None)


def test_a_form_that_torch_cannot_run_here_says_why(
    finished: Path, given: StageInputs, known: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = eager_variants.start

    @contextmanager
    def started(path: Path, device: str = "cpu", form: str = "eager") -> Iterator[object]:
        if form != "channels_last":
            with start(path, device, form) as session:
                yield session
            return

        def refuse(**_: object) -> None:
            raise StageFailed("no compiler answers", "install one")

        yield refuse

    monkeypatch.setattr(eager_variants, "start", started)
    (sweep,) = run.run(finished, given, asked(), unwatched).sweeps
    assert {row.name: row.reason for row in sweep.rows}["channels_last"] == "no compiler answers"
    with pytest.raises(StageFailed, match="no compiler answers"):
        run.run(finished, given, asked(baseline="channels_last"), unwatched)


@pytest.mark.gpu
def test_a_gpu_gets_the_whole_ladder_by_its_own_clock(finished: Path, given: StageInputs) -> None:
    (sweep,) = run.run(finished, given, asked(device="cuda"), unwatched).sweeps
    rows = {row.name: row for row in sweep.rows}
    for form in ("eager", "channels_last", "fp16", "cuda_graph"):
        timed = rows[form].latency
        assert timed is not None, rows[form].status
        assert timed.gpu_ms is not None
        assert 0 < timed.gpu_ms <= timed.p50_ms
        assert timed.launch_bound is not None
    assert sweep.conditions.gpu
