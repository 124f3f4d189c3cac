"""Tests of the known_issues stage, and of the checks at its probes in later stages."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deploytool import serde
from deploytool.backends import onnxruntime, tensorrt_builder
from deploytool.backends.session import Array, Session
from deploytool.data import golden
from deploytool.errors import StageFailed
from deploytool.known_issues import fuse_half_attention, rotate_after_prefix
from deploytool.known_issues.catalog import KNOWN_ISSUES, Match
from deploytool.known_issues.place import AffectedReleases
from deploytool.loading import catalog
from deploytool.parity import checks, intermediates
from deploytool.parity.checks import PlannedComparison
from deploytool.pipeline import runner
from deploytool.results import report, verdict
from deploytool.results.artifact import Kind
from deploytool.spec import FLOATS, EnginePlan, Job, Options, Precision, Stage, Tensor
from deploytool.stages import build, validate
from deploytool.stages import known_issues as stages_known_issues
from tests.blame import faults
from tests.conftest import QUICK, artifacts

C2F = catalog.find(
    f"{Path(__file__).parents[1] / 'user_models' / 'c2f.py'}:make", [Tensor("input", ("batch", 3, 32, 32))]
)
RECIPE = (
    Stage.LOAD,
    Stage.GOLDEN,
    Stage.TORCHSCRIPT,
    Stage.EXPORT,
    Stage.SIMPLIFY,
    Stage.FP16,
    Stage.KNOWN_ISSUES,
    Stage.VALIDATE,
)
PROBES = ["/1/Add_1_output_0", "/1/Add_2_output_0"]


@pytest.fixture(scope="module")
def probed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("probed_run") / "c2f"
    list(runner.run(Job(C2F, QUICK), RECIPE, home))
    return home


@pytest.fixture
def copied(probed_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(probed_run, tmp_path / "c2f"))


def notes(run: Path) -> dict[str, serde.Json]:
    return dict(artifacts(run).latest(Kind.PROBES).notes)


def probe_checks(run: Path, stage: str) -> list[str]:
    written = report.read(run / "validate" / "report.json")
    return [
        check.against
        for comparison in written.comparisons
        if comparison.stage == stage
        for check in comparison.checks
        if check.against.startswith("probe")
    ]


def test_every_match_has_a_probe_with_the_values_of_the_fp32_graph(probed_run: Path) -> None:
    matches = serde.decode(tuple[Match, ...], notes(probed_run)["hits"])
    assert [match.place.tensor for match in matches] == PROBES
    probes = intermediates.read(probed_run / "known_issues" / "probes.npz").values
    inputs = intermediates.first_cases(golden.read(probed_run / "golden" / "golden.npz").inputs)
    expected = intermediates.answers(probed_run / "export" / "model.onnx", PROBES, onnxruntime.start, inputs)
    assert list(probes) == PROBES
    for name, values in probes.items():
        assert values.dtype == np.float32
        assert values.shape == (2, 8, 16, 16)
        np.testing.assert_allclose(values, expected[name], atol=1e-5)


def test_every_issue_is_a_remark_of_the_report(probed_run: Path) -> None:
    lines = [
        line for line in report.read(probed_run / "validate" / "report.json").remarks if line.startswith("known_issues")
    ]
    assert lines == [
        "known_issues: /1/Add_1 and 1 more match the pattern of NVIDIA/TensorRT#4854, reported for tensorrt from 11.2 "
        "on (no fix known), compute capability 12.0; probes: 2"
    ]


def test_every_graph_is_checked_at_the_probes(probed_run: Path) -> None:
    names = [f"probe {name}" for name in PROBES]
    assert {stage: probe_checks(probed_run, stage) for stage in ("torchscript", "export", "simplify", "fp16")} == {
        "torchscript": [],
        "export": names,
        "simplify": names,
        "fp16": names * 2,  # ONNX Runtime, and FP16 arithmetic
    }
    assert verdict.failed_lines(report.read(probed_run / "validate" / "report.json")) == ()


def test_probes_are_not_outputs_of_the_graphs(probed_run: Path) -> None:
    for stage in ("export", "simplify", "fp16"):
        outputs = onnx.load(probed_run / stage / "model.onnx").graph.output
        assert [output.name for output in outputs] == ["logits"]


@pytest.mark.integration
@pytest.mark.parametrize("io", FLOATS)
@pytest.mark.parametrize("stage", ["export", "simplify", "fp16"])
def test_a_fault_at_a_probe_fails_the_check_of_that_probe(
    copied: Path, tmp_path: Path, stage: str, io: Precision
) -> None:
    options = dataclasses.replace(QUICK, io=io)
    if io is Precision.FP16:
        list(runner.run(Job(C2F, options), RECIPE, copied))
    plant_fault(copied / stage / "model.onnx", "/1/Add_1_output_0")
    validate.make(Job(C2F, options), tmp_path / "report.json", artifacts(copied))
    failed = verdict.failed_lines(report.read(tmp_path / "report.json"))
    names = {line.partition(":")[0] for line in failed if "probe" in line}
    runs = ("fp16", "fp16 in FP16 arithmetic") if stage == "fp16" else (stage,)
    assert names == {f"{run} against probe {name}" for run in runs for name in PROBES}


def test_a_fault_that_the_outputs_hide_is_detected_at_the_probes(copied: Path, tmp_path: Path) -> None:
    """A flipped kernel in one bottleneck: after the pooling, its error is within the FP16 tolerance."""
    graph = copied / "fp16" / "model.onnx"
    faults.plant(graph, graph, "Conv", 2, faults.flip_kernel)
    validate.make(Job(C2F, QUICK), tmp_path / "report.json", artifacts(copied))
    failed = verdict.failed_lines(report.read(tmp_path / "report.json"))
    runs = ("fp16", "fp16 in FP16 arithmetic")
    expected = {f"{run} against probe {name}" for run in runs for name in PROBES} | {
        "fp16 as converted against simplify with its weights in FP16"
    }
    assert {line.partition(":")[0] for line in failed} == expected, "the outputs pass in FP16"


def plant_fault(path: Path, tensor: str) -> None:
    """Makes the sum at the probe read its first operand twice."""
    model = onnx.load(path)
    (node,) = (node for node in model.graph.node if node.output[0] == tensor)
    node.input[1] = node.input[0]
    onnx.save(model, path)


def test_without_a_match_no_probe_is_recorded_and_no_session_started(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intermediates, "answers", lambda *_: pytest.fail("a session was started"))
    result = stages_known_issues.make(Job(C2F, QUICK), tmp_path / "probes.npz", artifacts(finished))
    assert result == {"hits": [], "remarks": []}
    assert intermediates.read(tmp_path / "probes.npz").values == {}
    validate.make(Job(C2F, QUICK), tmp_path / "report.json", artifacts(finished))


def test_the_remark_counts_the_probes_that_the_reference_graph_has(copied: Path) -> None:
    model = onnx.load(copied / "simplify" / "model.onnx")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["renamed" if name == PROBES[0] else name for name in names]
    del model.graph.value_info[:]
    onnx.save(model, copied / "simplify" / "model.onnx")
    result = stages_known_issues.make(Job(C2F, QUICK), copied / "known_issues" / "probes.npz", artifacts(copied))
    assert list(intermediates.read(copied / "known_issues" / "probes.npz").values) == PROBES[1:]
    (remark,) = serde.decode(tuple[str, ...], result["remarks"])
    assert remark.endswith("; probes: 1")


def test_a_probe_that_cannot_run_is_left_out(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = intermediates.answers

    def failing(graph: Path, tensors: Collection[str], *others: Any) -> Mapping[str, Array]:
        if PROBES[0] in tensors:
            raise StageFailed("the batch is not first", "-")
        return answers(graph, tensors, *others)

    monkeypatch.setattr(intermediates, "answers", failing)
    result = stages_known_issues.make(Job(C2F, QUICK), copied / "known_issues" / "probes.npz", artifacts(copied))
    assert list(intermediates.read(copied / "known_issues" / "probes.npz").values) == PROBES[1:]
    matches = serde.decode(tuple[Match, ...], result["hits"])
    assert [match.is_probed for match in matches] == [False, True], "an engine gets no output that cannot be compared"


BLOCKS = Path(__file__).parents[1] / "user_models" / "known_issues.py"


@pytest.mark.integration
def test_a_fault_in_deformable_attention_fails_the_check_of_its_probe(tmp_path: Path) -> None:
    model = catalog.find(f"{BLOCKS}:deformable", [Tensor("input", ("batch", 3, 32, 32))])
    recipe = tuple(stage for stage in RECIPE if stage is not Stage.TORCHSCRIPT)
    list(runner.run(Job(model, QUICK), recipe, tmp_path / "run"))
    assert verdict.failed_lines(report.read(tmp_path / "run" / "validate" / "report.json")) == ()
    path = tmp_path / "run" / "fp16" / "model.onnx"
    graph = onnx.load(path)
    (sampler, _) = (node for node in graph.graph.node if node.op_type == "GridSample")
    del sampler.attribute[:]
    sampler.attribute.append(onnx.helper.make_attribute("mode", "nearest"))
    onnx.save(graph, path)
    validate.make(Job(model, QUICK), tmp_path / "report.json", artifacts(tmp_path / "run"))
    failed = verdict.failed_lines(report.read(tmp_path / "report.json"))
    assert any(line.startswith("fp16 against probe /attention/out/Add_output_0") for line in failed)


@pytest.mark.integration
def test_a_tensor_of_two_issues_is_one_output_of_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DINOv3's attention in FP16 matches two issues, which are declared to affect TensorRT-RTX here."""
    rtx = (AffectedReleases("tensorrt_rtx", "1.0", None, ("12.0",)),)
    for issue in (fuse_half_attention, rotate_after_prefix):
        monkeypatch.setattr(issue, "AFFECTED", rtx)
    model = catalog.find(f"{BLOCKS}:rotary", [Tensor("input", ("batch", 3, 32, 32))], {"prefix": 3})
    recipe = tuple(stage for stage in RECIPE if stage not in {Stage.TORCHSCRIPT, Stage.VALIDATE})
    list(runner.run(Job(model, QUICK), recipe, tmp_path / "run"))
    job = Job(model, dataclasses.replace(QUICK, engines=(PLAN,)))
    result = build.make(job, tmp_path / "model.plan", artifacts(tmp_path / "run"))
    assert result["probes"] == {"model.plan": ["/layers.0/out/Add_output_0", "/layers.1/out/Add_output_0"]}
    assert "NVIDIA/TensorRT#4837, NVIDIA/TensorRT#4742 can affect model.plan, which has 2 probes" in str(
        result["remarks"]
    )


PLAN = EnginePlan("model.plan", "tensorrt_rtx", ("12.0",))


def build_notes(run: Path, out: Path) -> dict[str, serde.Json]:
    options: Options = dataclasses.replace(QUICK, engines=(PLAN,))
    return dict(build.make(Job(C2F, options), out, artifacts(run)))


def test_an_engine_that_is_not_affected_has_no_probes(probed_run: Path, tmp_path: Path) -> None:
    result = build_notes(probed_run, tmp_path / "model.plan")
    assert result["probes"] == {"model.plan": []}
    assert str(result["remarks"]).startswith("['model.plan has no probes: NVIDIA/TensorRT#4854 is not reported for")


@pytest.mark.integration
def test_an_affected_engine_has_the_probes_as_outputs(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Declares TensorRT-RTX affected, because only that is built here."""
    marked: list[list[str]] = []
    mark_outputs = tensorrt_builder._mark_outputs

    def recorded(network: object, tensors: Collection[str]) -> None:
        mark_outputs(network, tensors)
        marked.append(outputs(network))

    monkeypatch.setattr(tensorrt_builder, "_mark_outputs", recorded)
    build_notes(copied, tmp_path / "model.plan")
    pattern = KNOWN_ISSUES[0]
    monkeypatch.setattr(pattern, "AFFECTED", (AffectedReleases("tensorrt_rtx", "1.0", None, ("12.0",)),))
    list(runner.run(Job(C2F, QUICK), RECIPE[:-1], tmp_path / "again"))
    result = build_notes(tmp_path / "again", tmp_path / "other.plan")
    assert result["probes"] == {"model.plan": PROBES}
    assert marked == [["logits"], ["logits", *PROBES]]
    assert "has 2 probes as additional outputs" in str(result["remarks"])
    assert (tmp_path / "model.plan").stat().st_size > 10_000


def outputs(network: object) -> list[str]:
    return [network.get_output(index).name for index in range(network.num_outputs)]  # type: ignore[attr-defined]  # untyped


@pytest.mark.parametrize(("factor", "failing"), [(1.0, set()), (1.5, {f"build against probe {PROBES[1]}"})])
def test_an_engine_with_probes_is_checked_at_them(
    probed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, failing: set[str]
) -> None:
    """The FP16 graph with the probes as outputs, one of them scaled by a factor, stands in for the engine."""

    @contextmanager
    def start() -> Iterator[Session]:
        def call(**inputs: Array) -> dict[str, Array]:
            answers = intermediates.answers(probed_run / "fp16" / "model.onnx", PROBES, onnxruntime.start, inputs)
            return {name: array * (factor if name == PROBES[1] else 1) for name, array in answers.items()}

        yield call

    step = PlannedComparison(Stage.BUILD, "model.plan", "tensorrt", "cuda", Stage.FP16, start, precision=Precision.FP16)
    monkeypatch.setattr(checks, "engine_comparisons", lambda _: [step])
    validate.make(Job(C2F, QUICK), tmp_path / "report.json", artifacts(probed_run))
    written = report.read(tmp_path / "report.json")
    (comparison,) = (comparison for comparison in written.comparisons if comparison.stage == "build")
    assert {f"probe {name}" for name in PROBES} <= {check.against for check in comparison.checks}
    assert {line.partition(":")[0] for line in verdict.failed_lines(written)} == failing
