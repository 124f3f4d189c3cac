"""The verdict of a run: reasons, pending measurements and next steps for every kind of outcome."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from deploytool.report import rows
from deploytool.results import runners, verdict
from deploytool.results.baked_values import BakedKind, BakedValue, Origin
from deploytool.results.blame import Finding, Layer
from deploytool.results.faults import FaultsResult, MissedFault
from deploytool.results.fp8 import Fp8
from deploytool.results.int8 import Int8
from deploytool.results.measure import Difference, Inferiority, Measure, MeasuredArtifact, Measures
from deploytool.results.report import (
    SCHEMA,
    Check,
    Comparison,
    Equality,
    Fp16Range,
    Gate,
    Parity,
    PartCheck,
    Report,
    Tolerance,
    Weights,
)
from deploytool.spec import GateOutcome, Stage, Status, Verdict

WEIGHTS = Weights(10, 1, 2)
NO_FAULTS = FaultsResult((), (), 0, ())
TOLERANCE = Tolerance(1e-5, 1.0, 90.0, 1.0, 1.0)


def check(*broken: str) -> Check:
    return Check("simplify", Parity(2e-5, 1.0, 400.0, 0.75, 1.0, 3), TOLERANCE, broken, "logits")


def written(*comparisons: Comparison, fp16_range: Fp16Range | None = None) -> Report:
    return Report(
        SCHEMA, "tiny", "a CPU", 1, 10, 4, 0.01, None, comparisons, (), None, fp16_range, NO_FAULTS, (), (), (), {}
    )


def comparison(stage: Stage, *checks: Check, status: Status = Status.MEASURED) -> Comparison:
    return Comparison(stage, "model.onnx", "onnxruntime", "cpu", status, checks)


def test_every_failed_check_has_one_line() -> None:
    report = written(
        comparison(Stage.EXPORT, check()), comparison(Stage.FP16, check("max_error", "top1"), check("invalid"))
    )
    largest, invalid = verdict.failed_lines(report)
    assert largest == "fp16 against simplify: the largest error of logits is 2.0e-05, the limit is 1.0e-05"
    assert invalid.startswith("fp16 against simplify: 3 values of logits are invalid")


@pytest.mark.parametrize(
    ("figure", "measured", "limit", "texts"),
    [
        ("max_error", 8.24e-3, 8.16e-3, ("8.24e-03", "8.16e-03")),
        ("snr_db", 39.96, 40.01, ("39.96 dB", "40.01 dB")),
        ("cosine", 0.99999999991, 0.99999999992, ("0.99999999991", "0.99999999992")),
        ("top1", 0.9996, 1.0, ("99.96%", "100.00%")),
        ("top1", 0.98939, 0.98941, ("98.939%", "98.941%")),
    ],
)
def test_a_figure_and_its_limit_never_read_alike(
    figure: str, measured: float, limit: float, texts: tuple[str, str]
) -> None:
    measures: dict[str, Any] = {figure: measured}
    limits: dict[str, Any] = {figure: limit}
    parity, tolerance = dataclasses.replace(check().parity, **measures), dataclasses.replace(TOLERANCE, **limits)
    text = verdict.describe_excess(figure, parity, tolerance)
    assert text.endswith(f" is {texts[0]}, the limit is {texts[1]}")
    failed = dataclasses.replace(check(figure), parity=parity, tolerance=tolerance)
    (row,) = rows.failed_figures_of(failed)
    assert row.measured != row.limit


def test_too_many_ties_are_reported_with_their_share() -> None:
    equal = Equality(share=2 / 3, low=0.39, high=0.86, elements=12, tied=4, wrong=0)
    tolerance = dataclasses.replace(TOLERANCE, equal=0.875)
    parity = Parity(0.0, 1.0, 400.0, None, None, 0, equal)
    text = verdict.describe_excess("equal", parity, tolerance)
    assert text.startswith("66.67 % (39–86) ")
    assert text.endswith("87.50%")
    beyond = dataclasses.replace(parity, equal=dataclasses.replace(equal, wrong=2))
    assert "2 differ" in verdict.describe_excess("equal", beyond, tolerance)


@pytest.mark.parametrize("runner", ["fp32_compute", "fp16_emulation"])
def test_a_failure_names_the_runner_of_the_fp16_graph(runner: str) -> None:
    (line,) = verdict.failed_comparison_lines(
        dataclasses.replace(comparison(Stage.FP16, check("max_error")), runner=runner)
    )
    assert line.startswith(f"fp16 {runners.LABELS[runner]} against simplify: ")


def test_noise_beyond_the_limit_is_the_only_reason_and_recommends_no_blame() -> None:
    noisy = dataclasses.replace(check("max_error", "noise"), tolerance=dataclasses.replace(TOLERANCE, noise=0.58))
    report = written(comparison(Stage.GOLDEN, noisy), comparison(Stage.FP16, check("max_error")))
    conclusion = verdict.conclude(report, Path("run"))
    assert len(conclusion.reasons) == 1
    assert "5.8e-01" in conclusion.reasons[0]
    assert "1.0e-03" in conclusion.reasons[0]
    assert "--weights" in conclusion.next
    assert "blame" not in conclusion.next
    assert verdict.noise_failure(written(comparison(Stage.FP16, check("max_error")))) is None


def test_noise_of_a_selection_names_it_and_the_outputs_before_it() -> None:
    parts = tuple(
        PartCheck(name, Parity(0.0, 1.0, 400.0, None, None, 0), dataclasses.replace(TOLERANCE, noise=noise), broken)
        for name, noise, broken in (
            ("boxes[:, 4:10]", 0.6, ("noise",)),
            ("boxes[:, :4]", 1e-7, ()),
            ("scores", 1e-7, ()),
        )
    )
    noisy = dataclasses.replace(check("noise"), parts=parts)
    report = dataclasses.replace(written(comparison(Stage.GOLDEN, noisy)), selections=("topk at net.py:12",))
    conclusion = verdict.conclude(report, Path("run"))
    assert conclusion.reasons[0].endswith("rounding changes what is selected by topk at net.py:12")
    assert conclusion.next.endswith("--output scores")
    place = (Stage.EXPORT, BakedKind.BRANCH, Origin.DATA, "net.py", 3, "if n == 2:")
    baked = BakedValue(*place, False, 2, 2, "batch size 3", 0.5)
    assert baked.wrong
    assert verdict.conclude(dataclasses.replace(report, baked_values=(baked,)), Path("run")) == conclusion
    alone = dataclasses.replace(report, comparisons=(comparison(Stage.GOLDEN, check("noise")),))
    assert "after the model returns it" in verdict.conclude(alone, Path("run")).next


def test_an_artifact_that_was_not_run_is_pending() -> None:
    report = written(comparison(Stage.FP16, check()), comparison(Stage.BUILD, status=Status.BUILT_NOT_RUN))
    assert verdict.failed_lines(report) == ()
    assert verdict.unmeasured_lines(report) == ("build: built, not run",)


@pytest.mark.parametrize(
    ("largest", "node", "overflows", "coarse"),
    [
        ({"a": 3.0, "b": 511.0}, "b", False, ()),
        ({"a": 65504.0, "b": 600.0}, "a", False, ("a", "b")),
        ({"a": 3.0, "b": 65505.0}, "b", True, ("b",)),
        ({"a": math.inf, "b": 70000.0}, "a", True, ("a", "b")),
        ({"a": math.nan}, "a", True, ("a",)),
    ],
)
def test_the_fp16_range_names_the_node_with_the_largest_value(
    largest: dict[str, float], node: str, overflows: bool, coarse: tuple[str, ...]
) -> None:
    values = verdict.fp16_range(largest, WEIGHTS)
    assert (values.node, values.overflows, values.coarse) == (node, overflows, coarse)
    assert math.isfinite(values.largest)
    lines = verdict.failed_lines(written(fp16_range=values))
    assert bool(lines) is overflows
    assert not lines or node in lines[0]


OVERFLOW = Fp16Range("/stem/Conv", 1e6, ("/stem/Conv",), WEIGHTS)


@pytest.mark.parametrize(
    ("report", "helps"),
    [
        (written(comparison(Stage.FP16, check())), False),
        (written(comparison(Stage.FP16, check("max_error"))), True),
        (written(comparison(Stage.FP16, check()), fp16_range=OVERFLOW), True),
        (written(comparison(Stage.BUILD, check("invalid")), fp16_range=OVERFLOW), True),
        (written(comparison(Stage.SIMPLIFY, check("max_error")), comparison(Stage.FP16, check("max_error"))), False),
    ],
)
def test_keeping_layers_in_fp32_is_recommended_only_if_fp16_alone_fails(report: Report, helps: bool) -> None:
    assert verdict.keep_fp32_may_help(report) is helps
    with_option = dataclasses.replace(report, options={"keep_fp32": ["stem"]})
    assert verdict.keep_fp32_may_help(with_option) is False


def outcome(report: Report, finding: Finding | None = None) -> tuple[Verdict, tuple[str, ...], list[str]]:
    """The verdict, the reasons, and the commands (or the text, if there is no command) of the next steps."""
    conclusion = verdict.conclude(report, Path("run"), finding)
    return conclusion.verdict, conclusion.reasons, [step.command or step.what for step in conclusion.steps]


FINDING = Finding(
    Stage.FP16,
    Stage.REWRITE,
    "stem",
    lost=False,
    layer=Layer("stem", "t", "/stem/Conv", "Conv", 1.0, 0.1),
    worst_input=None,
)
MISSED = FaultsResult((), (MissedFault("graph", "bias_dropped", "/stem", 0.1, 7.0),), 8, (3,))


def test_a_failure_recommends_keep_fp32_and_blame() -> None:
    report = written(comparison(Stage.EXPORT, check()), comparison(Stage.FP16, check("max_error")))
    failed = verdict.failed_comparison_lines(report.comparisons[1])
    result, reasons, (keep, blame) = outcome(report)
    assert (result, reasons, blame) == (Verdict.FAIL, failed, "deploytool blame run")
    assert verdict.KEEP_FP32_OPTION in keep
    result, reasons, (keep, blame) = outcome(report, FINDING)
    assert (result, reasons) == (Verdict.FAIL, (*failed, verdict.blamed_line(FINDING)))
    assert verdict.KEEP_FP32_OPTION in keep
    assert blame == "deploytool blame run --reduce"


def test_the_line_of_blame_names_stage_reference_module_and_node() -> None:
    line = verdict.blamed_line(FINDING)
    assert line.startswith("fp16 ")
    assert all(name in line for name in ("rewrite", "stem", "Conv /stem/Conv"))


def test_verdicts_are_ranked_in_the_order_of_the_exit_codes() -> None:
    missed_gate = Gate(2.0, Stage.BUILD, GateOutcome.MISSED)
    pending = comparison(Stage.BUILD, status=Status.BUILT_NOT_RUN)
    everything = dataclasses.replace(
        written(comparison(Stage.FP16, check("invalid")), pending), gate=missed_gate, faults=MISSED
    )
    assert outcome(everything)[0] is Verdict.FAIL
    passed = dataclasses.replace(everything, comparisons=(comparison(Stage.FP16, check()), pending))
    slow, (reason,), _ = outcome(passed)
    assert slow is Verdict.SLOW
    assert reason.startswith("build: ")
    assert "2×" in reason
    assert outcome(dataclasses.replace(passed, gate=None))[0] is Verdict.UNPROVEN
    assert outcome(dataclasses.replace(passed, gate=None, faults=NO_FAULTS))[0] is Verdict.PASS_HERE
    expected = (Verdict.PASS, (), ["deploytool pack run"])
    assert outcome(written(comparison(Stage.FP16, check()))) == expected


def test_packing_is_recommended_only_with_an_fp16_graph() -> None:
    result, reasons, (step,) = outcome(written(comparison(Stage.REWRITE, check())))
    assert (result, reasons) == (Verdict.PASS, ())
    assert "--trt" in step


def test_measurements_that_the_user_left_out_are_pending() -> None:
    report = written(comparison(Stage.FP16, check()))
    assert verdict.conclude(report, Path("run")).pending == ()
    bare = dataclasses.replace(report, faults=None, rounds=0)
    conclusion = verdict.conclude(bare, Path("run"))
    assert conclusion.verdict is Verdict.PASS_HERE
    assert conclusion.pending == verdict.omitted_lines(bare)
    assert [line.partition(":")[0] for line in conclusion.pending] == ["fault detection", "speed"]
    assert verdict.unmeasured_lines(bare) == ()


def test_a_required_speed_that_was_not_measured_is_pending() -> None:
    gate = Gate(2.0, Stage.BUILD, GateOutcome.OPEN, "built, not run")
    report = dataclasses.replace(written(comparison(Stage.FP16, check())), gate=gate)
    conclusion = verdict.conclude(report, Path("run"))
    assert conclusion.verdict is Verdict.PASS_HERE
    (line,) = conclusion.pending
    assert line.endswith("build: built, not run")
    assert conclusion.passed


def measured(stage: Stage, judged: Inferiority) -> MeasuredArtifact:
    measure = Measure(0.9, 0.95, 300, Difference(-0.05, -0.08, -0.02), judged, None)
    return MeasuredArtifact(stage, "file.onnx", "onnxruntime", "cpu", Status.MEASURED, measure)


def in_eight_bits(
    *judged: MeasuredArtifact, cases: int = 128, keep: tuple[str, ...] = (), stated: bool = False
) -> Report:
    """A run with an INT8 and an FP8 graph, and what the metric says of its artifacts."""
    measures = Measures("top1", None, 0.01, stated, "pictures", 300, 0.95, judged)
    fp8 = Fp8("fp8.onnx", cases, False, False, 0.1, 1.0, 1.0)
    report = dataclasses.replace(written(comparison(Stage.FP16, check())), options={"keep": list(keep)})
    return dataclasses.replace(report, measures=measures, int8=Int8(cases, ()), fp8=fp8)


AUTO, MORE = "repeat the command with --keep auto", "give --calibration more than 128 pictures"


@pytest.mark.parametrize("stage", [Stage.INT8, Stage.FP8])
def test_worse_in_8_bits_recommends_to_keep_layers_and_to_calibrate_on_more(stage: Stage) -> None:
    worse = measured(stage, Inferiority.WORSE)
    result, _, steps = outcome(in_eight_bits(worse))
    assert (result, steps) == (Verdict.FAIL, [AUTO, MORE, "see the images on which they differ in the report"])
    assert outcome(in_eight_bits(worse, keep=("auto",)))[2][0] == MORE
    assert outcome(in_eight_bits(worse, keep=("stem",)))[2][0] == AUTO
    assert outcome(in_eight_bits(worse, cases=500))[2][1].startswith("see the images")
    as_given = dataclasses.replace(in_eight_bits(worse), int8=Int8(0, ()), fp8=None)
    assert outcome(as_given)[2] == ["see the images on which they differ in the report"]
    other = measured(Stage.FP16, Inferiority.WORSE)
    assert AUTO not in outcome(in_eight_bits(other))[2]


def test_not_decided_in_8_bits_recommends_the_same_after_more_images() -> None:
    undecided = measured(Stage.INT8, Inferiority.NOT_DECIDED)
    result, _, steps = outcome(in_eight_bits(undecided, stated=True))
    assert (result, steps) == (Verdict.UNPROVEN, ["add images to --data, or raise --max-drop", AUTO, MORE])
    result, _, steps = outcome(in_eight_bits(undecided))
    assert (result, steps) == (Verdict.PASS_HERE, ["deploytool pack run", AUTO, MORE])
    other = measured(Stage.FP16, Inferiority.NOT_DECIDED)
    assert outcome(in_eight_bits(other))[2] == ["deploytool pack run"]
