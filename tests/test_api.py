"""`deploytool.export`: main models of the zoo, every model with `make test-all`, results and errors."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import pytest

import deploytool
from deploytool import api, targets
from deploytool.errors import BadInput, DeployError, NotVerified, ParityFailed, TooSlow
from deploytool.host import machine
from deploytool.loading import catalog, factory
from deploytool.pipeline import runner
from deploytool.pipeline.export_options import ExportOptions
from deploytool.pipeline.plan import Plan, plan_export
from deploytool.pipeline.recipe import PIPELINE
from deploytool.results import report, verdict
from deploytool.results.artifact import Artifact
from deploytool.results.faults import FaultsResult, MissedFault
from deploytool.results.report import SCHEMA, Check, Comparison, Gate, Parity, Report, Tolerance
from deploytool.spec import GateOutcome, Job, Options, Stage, Status
from tests.conftest import QUICK, ROOT, TINY, modules_of

factory.mount_zoo()
MAIN: tuple[str, ...] = import_module("deploytool.models.specs").MAIN
QUICKEST = ("mobilenet_v1_cifar",)
OTHERS = tuple(model.name for model in catalog.models() if model.name not in QUICKEST)


def errors(comparison: Comparison) -> list[float]:
    return [check.parity.max_error for check in comparison.checks]


def export_and_check(name: str, home: Path) -> None:
    """Runs the whole pipeline with the default engine and checks its report and graphs."""
    decisions = targets.plan_engines(())
    options = Options(seconds=0.1, targets=decisions, engines=targets.engines(decisions))
    made = list(runner.run(Job(catalog.find(name), options), PIPELINE, home))
    written = report.read(made[-1].path)
    assert verdict.failed_lines(written) == ()
    comparisons = {comparison.stage: comparison for comparison in written.comparisons}
    assert {comparison.status for verb, comparison in comparisons.items() if verb != "build"} == {Status.MEASURED}
    assert all(
        error <= 1e-5
        for verb in (Stage.GOLDEN, Stage.TORCHSCRIPT, Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE)
        for error in errors(comparisons[verb])
    )
    assert all(error <= report.COARSEST for error in errors(comparisons[Stage.FP16]))
    assert written.faults is not None
    assert written.faults.families
    assert all(check.parity.top1 == 1.0 for comparison in written.comparisons for check in comparison.checks)
    for verb in ("export", "simplify", "rewrite", "fp16"):
        onnx.checker.check_model(onnx.load(home / verb / "model.onnx"), full_check=True)
    assert (home / "build" / "model.plan").stat().st_size > 100_000


@pytest.mark.integration
@pytest.mark.parametrize("name", QUICKEST)
def test_a_main_model_passes_the_pipeline(name: str, tmp_path: Path) -> None:
    export_and_check(name, tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("name", OTHERS)
def test_every_model_passes_the_pipeline(name: str, tmp_path: Path) -> None:
    export_and_check(name, tmp_path)


@pytest.mark.integration
def test_the_dynamo_exporter_passes_the_pipeline(tmp_path: Path) -> None:
    options = Options(exporter="dynamo", opset=20, seconds=0.1, images=4)
    recipe = [verb for verb in PIPELINE if verb != Stage.BUILD]
    made = list(runner.run(Job(catalog.find("shufflenet_g3_x0_25"), options), recipe, tmp_path))
    assert verdict.failed_lines(report.read(made[-1].path)) == ()


@pytest.mark.integration
def test_another_seed_gives_other_weights_and_passes(tmp_path: Path) -> None:
    model = catalog.find("shufflenet_g3_x0_25")
    recipe = [verb for verb in PIPELINE if verb != Stage.BUILD]
    made = list(runner.run(Job(model, dataclasses.replace(QUICK, seed=1)), recipe, tmp_path / "1"))
    assert verdict.failed_lines(report.read(made[-1].path)) == ()
    (other,) = runner.run(Job(model, dataclasses.replace(QUICK, seed=2)), (Stage.LOAD,), tmp_path / "2")
    assert other.path.read_bytes() != made[0].path.read_bytes()


@pytest.mark.gpu
def test_with_a_gpu_everything_is_measured_on_it(tmp_path: Path) -> None:
    recipe = [verb for verb in PIPELINE if verb != Stage.BUILD]
    job = Job(catalog.find("shufflenet_g3"), Options(seconds=1.0))
    written = report.read(list(runner.run(job, recipe, tmp_path))[-1].path)
    assert written.device == machine.gpus()[0].name
    assert verdict.failed_lines(written) == ()
    assert {speed.status for speed in written.speeds} == {Status.MEASURED}
    assert {comparison.device for comparison in written.comparisons} == {"cpu", "cuda"}


TOLERANCE = Tolerance(1e-5, 1.0, 90.0, 1.0, 1.0)
GOOD = Comparison(Stage.FP16, "model.onnx", "onnxruntime", "cpu", Status.MEASURED, ())
WORSE = Check("simplify", Parity(1.0, 0.0, 0.0, 0.0, 0.0, 0), TOLERANCE, ("max_error",))
BAD = Comparison(Stage.FP16, "model.onnx", "onnxruntime", "cpu", Status.MEASURED, (WORSE,))
DOUBTFUL = FaultsResult((), (MissedFault("graph", "bias_dropped", "/stem/Conv_output_0", 0.1, 7.0),), 8, (3,))
PENDING = Comparison(Stage.BUILD, "model.plan", "tensorrt_rtx", "cuda", Status.BUILT_NOT_RUN, ())


def written(*comparisons: Comparison, gate: Gate | None = None, faults: FaultsResult | None = None) -> Report:
    return Report(SCHEMA, "tiny", "a CPU", 1, 10, 4, 0.01, None, comparisons, (), gate, None, faults, (), (), (), {})


@pytest.mark.parametrize(
    ("report", "require", "expected"),
    [
        (written(GOOD), True, None),
        (written(GOOD, PENDING), False, None),
        (written(GOOD, PENDING), True, NotVerified),
        (written(BAD, PENDING), True, ParityFailed),
        (written(GOOD, faults=FaultsResult((), (), 8, ())), True, None),
        (written(GOOD, faults=DOUBTFUL), False, NotVerified),
        (written(BAD, faults=DOUBTFUL), False, ParityFailed),
        (written(GOOD, gate=Gate(2.0, Stage.SIMPLIFY, GateOutcome.REACHED)), False, None),
        (written(GOOD, gate=Gate(2.0, Stage.SIMPLIFY, GateOutcome.MISSED)), False, TooSlow),
        (written(BAD, gate=Gate(2.0, Stage.SIMPLIFY, GateOutcome.MISSED)), False, ParityFailed),
        (written(GOOD, PENDING, gate=Gate(2.0, Stage.BUILD, GateOutcome.OPEN, "built, not run")), False, NotVerified),
    ],
)
def test_the_error_follows_from_the_report(report: Report, require: bool, expected: type[DeployError] | None) -> None:
    failure = api.outcome_error(report, Path("run"), require=require)
    assert failure is None if expected is None else type(failure) is expected


def test_the_remedy_for_an_error_in_fp16_alone_is_to_keep_layers_in_fp32() -> None:
    failure = api.outcome_error(written(GOOD, BAD), Path("run"), require=False)
    assert failure is not None
    assert verdict.KEEP_FP32_OPTION in failure.remedy
    assert "deploytool blame run" in failure.remedy
    earlier = dataclasses.replace(BAD, stage=Stage.SIMPLIFY)
    other = api.outcome_error(written(earlier, BAD), Path("run"), require=False)
    assert other is not None
    assert verdict.KEEP_FP32_OPTION not in other.remedy
    assert "deploytool blame run" in other.remedy


@pytest.mark.integration
def test_an_export_returns_a_run_with_typed_fields(tmp_path: Path) -> None:
    seen: list[str] = []

    def follow(plan: Plan, start: api.Start) -> tuple[Artifact, ...]:
        assert plan.recipe[-1] == "validate"
        made = []
        for artifact in start(lambda done, total: None):
            seen.append(artifact.made_by)
            made.append(artifact)
        return tuple(made)

    tiny = f"{ROOT / 'tests' / 'tiny.py'}:tiny"
    options = ExportOptions(inputs=[(3, 32, 32)], images=4, seconds=0.1, trt=True, pack=True, out=tmp_path / "run")
    run = api.run_export(tiny, options, follow)
    assert isinstance(run, deploytool.Run)
    assert run.passed
    assert run.check() is run
    assert seen == [*PIPELINE, "pack"]
    assert run.report == report.read(run.report_json)
    for path in (run.script, run.onnx, run.fp16, run.bundle, *run.engines):
        assert path is not None
        assert path.exists()
    assert (run.onnx, run.fp16) == (tmp_path / "run/rewrite/model.onnx", tmp_path / "run/fp16/model.onnx")
    assert run.report_html == tmp_path / "run/report.html"
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.error = None  # type: ignore[misc]  # mypy refuses it too
    again = deploytool.export(
        tiny, inputs=[(3, 32, 32)], images=4, seconds=0.1, min_speedup=1000, pack=True, out=tmp_path / "run"
    )
    assert isinstance(again.error, TooSlow)
    assert again.bundle is None
    assert again.engines == ()
    with pytest.raises(TooSlow, match="1000×"):
        again.check()


@pytest.mark.integration
def test_a_quick_run_to_onnx_omits_the_other_stages_and_checks(tmp_path: Path) -> None:
    tiny = f"{ROOT / 'tests' / 'tiny.py'}:tiny"
    run = deploytool.export(tiny, inputs=[(3, 32, 32)], to="onnx", quick=True, out=tmp_path / "run")
    made = [artifact.made_by for artifact in run.artifacts]
    assert made == [Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE, Stage.VALIDATE]
    assert run.passed
    assert (run.script, run.fp16) == (None, None)
    assert run.onnx == tmp_path / "run/rewrite/model.onnx"
    assert (run.report.images, run.report.rounds, run.report.speeds, run.report.faults) == (4, 0, (), None)
    assert [comparison.stage for comparison in run.report.comparisons if comparison.checks] == [
        "golden",
        "export",
        "simplify",
        "rewrite",
    ]
    assert run.report.options["rewrite"] == "folded"
    conclusion = verdict.conclude(run.report, run.folder)
    assert conclusion.verdict == "pass for all that ran here"
    assert conclusion.pending == verdict.omitted_lines(run.report)


@pytest.mark.parametrize("quick", [True, False])
def test_explicit_options_override_quick(quick: bool) -> None:
    explicit = {"images": 5, "faults": 2, "seconds": 0.5, "rewrite": "original"}
    plan = plan_export("shufflenet_g3", ExportOptions(quick=quick, **explicit))  # type: ignore[arg-type]
    assert {name: getattr(plan.options, name) for name in explicit} == explicit
    assert "faults" in plan.recipe


@pytest.mark.parametrize(
    ("model", "options", "problem"),
    [
        ("shuflenet_g3", {}, "there is no model 'shuflenet_g3'"),
        ("net.py:make", {"inputs": [(3, 8, 8)]}, "there is no file net.py"),
        (lambda: None, {}, "the model must be a string or a Model, not function"),
        ("mixnet_s", {"io": "int8"}, "invalid value 'int8' for io"),
        ("mixnet_s", {"batch": (8, 4, 2)}, "batch 8:4:2 is not a valid range"),
        ("mixnet_s", {"opset": 7}, "opset 7 is out of bounds"),
        ("mixnet_s", {"targets": ["rtx99"]}, "there is no target 'rtx99'"),
        ("mixnet_s", {"weights": "none.pth"}, "there is no file none.pth"),
        ("mixnet_s", {"data": "none"}, "there is no folder none"),
        ("mixnet_s", {"to": "int8"}, "invalid value 'int8' for to"),
        ("mixnet_s", {"rewrite": "fastest"}, "invalid value 'fastest' for rewrite"),
        ("mixnet_s", {"to": "onnx", "trt": True}, "engines and bundles need the FP16 graph"),
        ("mixnet_s", {"to": "onnx", "pack": True}, "engines and bundles need the FP16 graph"),
        ("mixnet_s", {"quick": True, "min_speedup": 1.0}, "--min-speedup needs a speed measurement"),
    ],
)
def test_bad_input_is_raised_before_any_work(
    model: Any, options: dict[str, Any], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=problem):
        deploytool.export(model, **options)
    assert not list(tmp_path.iterdir())


def test_a_model_object_is_used_unchanged_and_takes_no_inputs() -> None:
    assert plan_export(TINY, ExportOptions()).model == TINY
    with pytest.raises(BadInput, match="defines its inputs and arguments itself"):
        plan_export(TINY, ExportOptions(inputs=[(3, 8, 8)]))


def test_importing_the_package_imports_no_library_and_an_unknown_name_is_an_error() -> None:
    loaded = modules_of("import deploytool")
    assert not {"torch", "onnx", "onnxruntime", "numpy", "PIL", "typer", "rich"} & loaded
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        deploytool.exprot  # noqa: B018  # the name is what is tested
    assert (ROOT / "deploytool" / "py.typed").is_file()
