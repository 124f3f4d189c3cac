from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploytool import serde
from deploytool.backends import onnxruntime, tensorrt_builder
from deploytool.backends.session import Array, Session
from deploytool.data import golden
from deploytool.known_issues.catalog import KNOWN_ISSUES, Match
from deploytool.known_issues.place import AffectedReleases
from deploytool.loading import catalog
from deploytool.parity import checks, intermediates
from deploytool.parity.checks import PlannedComparison
from deploytool.pipeline import runner
from deploytool.results import report, verdict
from deploytool.results.artifact import Kind
from deploytool.spec import EnginePlan, Job, Options, Precision, Stage, Tensor
from deploytool.stages import build, validate
from deploytool.stages import known_issues as stages_known_issues
from tests.blame import faults
from tests.conftest import QUICK, artifacts

C2F = catalog.find(
    f"{Path(__file__).parents[1] / 'user_models' / 'c2f.py'}:make", [Tensor("input", ("batch", 3, 32, 32))]
)
ROAD = (
    Stage.LOAD,
    Stage.GOLDEN,
    Stage.TORCHSCRIPT,
    Stage.EXPORT,
    Stage.SIMPLIFY,
    Stage.FP16,
    Stage.KNOWN_ISSUES,
    Stage.VALIDATE,
)
CANARIES = ["/1/Add_1_output_0", "/1/Add_2_output_0"]


@pytest.fixture(scope="module")
def linted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("linted") / "c2f"
    list(runner.run(Job(C2F, QUICK), ROAD, home))
    return home


@pytest.fixture
def copied(linted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(linted, tmp_path / "c2f"))


def notes(run: Path) -> dict[str, serde.Json]:
    return dict(artifacts(run).latest(Kind.PROBES).notes)


def on_the_way(run: Path, stage: str) -> list[str]:
    written = report.read(run / "validate" / "report.json")
    return [
        check.against
        for comparison in written.comparisons
        if comparison.stage == stage
        for check in comparison.checks
        if check.against.startswith("probe")
    ]


def test_every_hit_gets_a_probe_with_the_values_of_the_fp32_graph(linted: Path) -> None:
    hits = serde.decode(tuple[Match, ...], notes(linted)["hits"])
    assert [hit.place.tensor for hit in hits] == CANARIES
    kept = intermediates.read(linted / "known_issues" / "probes.npz").values
    inputs = intermediates.first_cases(golden.read(linted / "golden" / "golden.npz").inputs)
    expected = intermediates.answers(linted / "export" / "model.onnx", CANARIES, onnxruntime.start, inputs)
    assert list(kept) == CANARIES
    for name, values in kept.items():
        assert values.dtype == np.float32
        assert values.shape == (2, 8, 16, 16)
        np.testing.assert_allclose(values, expected[name], atol=1e-5)


def test_each_hit_is_a_line_of_the_report(linted: Path) -> None:
    lines = [
        line for line in report.read(linted / "validate" / "report.json").remarks if line.startswith("known_issues")
    ]
    assert [line.split(" has ")[0] for line in lines] == ["known_issues: /1/Add_1", "known_issues: /1/Add_2"]
    assert all("NVIDIA/TensorRT#4854" in line and "compute capability 12.0" in line for line in lines)


def test_every_graph_is_checked_at_the_probes(linted: Path) -> None:
    wanted = [f"probe {name}" for name in CANARIES]
    assert {stage: on_the_way(linted, stage) for stage in ("torchscript", "export", "simplify", "fp16")} == {
        "torchscript": [],
        "export": wanted,
        "simplify": wanted,
        "fp16": wanted * 2,  # ONNX Runtime, and FP16 arithmetic
    }
    assert verdict.failed_lines(report.read(linted / "validate" / "report.json")) == ()


def test_the_graphs_keep_their_outputs(linted: Path) -> None:
    for stage in ("export", "simplify", "fp16"):
        outputs = onnx.load(linted / stage / "model.onnx").graph.output
        assert [output.name for output in outputs] == ["logits"]


@pytest.mark.parametrize("io", list(Precision))
@pytest.mark.parametrize("stage", ["export", "simplify", "fp16"])
def test_a_fault_at_a_probe_fails_it_by_name(copied: Path, tmp_path: Path, stage: str, io: Precision) -> None:
    options = dataclasses.replace(QUICK, io=io)
    if io is Precision.FP16:
        list(runner.run(Job(C2F, options), ROAD, copied))
    spoil(copied / stage / "model.onnx", "/1/Add_1_output_0")
    validate.make(Job(C2F, options), tmp_path / "report.json", artifacts(copied))
    failed = verdict.failed_lines(report.read(tmp_path / "report.json"))
    named = {line.partition(":")[0] for line in failed if "probe" in line}
    ways = ("fp16", "fp16 in FP16 arithmetic") if stage == "fp16" else (stage,)
    assert named == {f"{way} against probe {name}" for way in ways for name in CANARIES}


def test_a_fault_that_the_outputs_hide_is_seen_at_the_probes(copied: Path, tmp_path: Path) -> None:
    """A kernel turned round in one bottleneck: behind the pool, its error is less than what FP16 may have."""
    graph = copied / "fp16" / "model.onnx"
    faults.plant(graph, graph, "Conv", 2, faults.flip_kernel)
    validate.make(Job(C2F, QUICK), tmp_path / "report.json", artifacts(copied))
    failed = verdict.failed_lines(report.read(tmp_path / "report.json"))
    ways = ("fp16", "fp16 in FP16 arithmetic")
    expected = {f"{way} against probe {name}" for way in ways for name in CANARIES} | {
        "fp16 as converted against simplify with its weights in FP16"
    }
    assert {line.partition(":")[0] for line in failed} == expected, "in FP16, the outputs themselves pass"


def spoil(path: Path, tensor: str) -> None:
    """The sum at the probe reads one operand twice, as if it were the other."""
    model = onnx.load(path)
    (node,) = (node for node in model.graph.node if node.output[0] == tensor)
    node.input[1] = node.input[0]
    onnx.save(model, path)


def test_where_nothing_is_found_nothing_is_kept_or_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intermediates, "answers", lambda *given: pytest.fail("a session was started"))
    found = stages_known_issues.make(Job(C2F, QUICK), tmp_path / "probes.npz", artifacts(finished))
    assert found == {"hits": [], "remarks": []}
    assert intermediates.read(tmp_path / "probes.npz").values == {}
    validate.make(Job(C2F, QUICK), tmp_path / "report.json", artifacts(finished))


def test_a_tensor_that_the_graph_before_lacks_is_said_to_be_unchecked(copied: Path) -> None:
    model = onnx.load(copied / "simplify" / "model.onnx")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["renamed" if name == CANARIES[0] else name for name in names]
    del model.graph.value_info[:]
    onnx.save(model, copied / "simplify" / "model.onnx")
    found = stages_known_issues.make(Job(C2F, QUICK), copied / "known_issues" / "probes.npz", artifacts(copied))
    assert list(intermediates.read(copied / "known_issues" / "probes.npz").values) == CANARIES[1:]
    assert [str(line).rpartition(": ")[2] for line in found["remarks"]] == [  # type: ignore[union-attr]  # a list
        "checked at the outputs only",
        "checked there",
    ]


PLAN = EnginePlan("model.plan", "tensorrt_rtx", ("12.0",))


def built(run: Path, out: Path) -> dict[str, serde.Json]:
    options: Options = dataclasses.replace(QUICK, engines=(PLAN,))
    return dict(build.make(Job(C2F, options), out, artifacts(run)))


def test_an_engine_that_cannot_be_hit_is_as_it_would_be(linted: Path, tmp_path: Path) -> None:
    found = built(linted, tmp_path / "model.plan")
    assert found["probes"] == {"model.plan": []}
    assert str(found["remarks"]).startswith("['model.plan has no probes: NVIDIA/TensorRT#4854 is not reported for")


def test_an_engine_that_can_be_hit_gives_the_probes(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if TensorRT-RTX had the fault: it is what builds here."""
    marked: list[list[str]] = []
    real = tensorrt_builder._mark_outputs

    def watched(network: object, tensors: Collection[str]) -> None:
        real(network, tensors)
        marked.append(outputs(network))

    monkeypatch.setattr(tensorrt_builder, "_mark_outputs", watched)
    built(copied, tmp_path / "model.plan")
    pattern = KNOWN_ISSUES[0]
    monkeypatch.setattr(pattern, "AFFECTED", (AffectedReleases("tensorrt_rtx", "1.0", None, ("12.0",)),))
    list(runner.run(Job(C2F, QUICK), ROAD[:-1], tmp_path / "again"))
    found = built(tmp_path / "again", tmp_path / "other.plan")
    assert found["probes"] == {"model.plan": CANARIES}
    assert marked == [["logits"], ["logits", *CANARIES]]
    assert "it gives 2 tensors more, the probes" in str(found["remarks"])
    assert (tmp_path / "model.plan").stat().st_size > 10_000


def outputs(network: object) -> list[str]:
    return [network.get_output(at).name for at in range(network.num_outputs)]  # type: ignore[attr-defined]  # untyped


@pytest.mark.parametrize(("factor", "failing"), [(1.0, set()), (1.5, {f"build against probe {CANARIES[1]}"})])
def test_an_engine_that_gives_probes_is_checked_at_them(
    linted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, failing: set[str]
) -> None:
    """In the engine's place: the FP16 graph with the probes among its outputs, one of them wrong by a factor."""

    @contextmanager
    def start() -> Iterator[Session]:
        def call(**inputs: Array) -> dict[str, Array]:
            found = intermediates.answers(linted / "fp16" / "model.onnx", CANARIES, onnxruntime.start, inputs)
            return {name: array * (factor if name == CANARIES[1] else 1) for name, array in found.items()}

        yield call

    step = PlannedComparison(Stage.BUILD, "model.plan", "tensorrt", "cuda", Stage.FP16, start)
    monkeypatch.setattr(checks, "engine_comparisons", lambda given: [step])
    validate.make(Job(C2F, QUICK), tmp_path / "report.json", artifacts(linted))
    written = report.read(tmp_path / "report.json")
    (comparison,) = (comparison for comparison in written.comparisons if comparison.stage == "build")
    assert {f"probe {name}" for name in CANARIES} <= {check.against for check in comparison.checks}
    assert {line.partition(":")[0] for line in verdict.failed_lines(written)} == failing
