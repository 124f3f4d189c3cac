from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from deploytool.results import verdict
from deploytool.results.blame import Finding, Layer
from deploytool.results.faults import FaultsResult, MissedFault
from deploytool.results.report import (
    SCHEMA,
    Check,
    Comparison,
    Equality,
    Fp16Range,
    Gate,
    Parity,
    Report,
    Tolerance,
    Weights,
)
from deploytool.spec import GateOutcome, Stage, Status

WEIGHTS = Weights(10, 1, 2)
PROVED = FaultsResult((), (), 0, ())
TOLERANCE = Tolerance(1e-5, 1.0, 90.0, 1.0, 1.0)


def check(*broken: str) -> Check:
    return Check("simplify", Parity(2e-5, 1.0, 400.0, 0.75, 1.0, 3), TOLERANCE, broken, "logits")


def written(*comparisons: Comparison, reach: Fp16Range | None = None) -> Report:
    return Report(SCHEMA, "tiny", "a CPU", 1, 10, 4, 0.01, None, comparisons, (), None, reach, PROVED, (), (), (), {})


def comparison(stage: Stage, *checks: Check, status: Status = Status.MEASURED) -> Comparison:
    return Comparison(stage, "model.onnx", "onnxruntime", "cpu", status, checks)


def test_every_broken_check_has_its_line() -> None:
    report = written(
        comparison(Stage.EXPORT, check()), comparison(Stage.FP16, check("max_error", "top1"), check("bad"))
    )
    assert verdict.failed_lines(report) == (
        "fp16 against simplify: the largest error of logits is 2.0e-05, the limit is 1.0e-05",
        "fp16 against simplify: 3 values of logits are NaN, infinite or misplaced, none may be",
    )


def test_too_many_ties_are_told_by_their_share() -> None:
    equal = Equality(share=2 / 3, low=0.39, high=0.86, elements=12, tied=4, wrong=0)
    tolerance = dataclasses.replace(TOLERANCE, equal=0.875)
    parity = Parity(0.0, 1.0, 400.0, None, None, 0, equal)
    assert (
        verdict.describe_excess("equal", parity, tolerance)
        == "66.67 % (39–86) of the elements are equal, the limit is 87.50%"
    )
    beyond = dataclasses.replace(parity, equal=dataclasses.replace(equal, wrong=2))
    assert (
        verdict.describe_excess("equal", beyond, tolerance)
        == "66.67 % (39–86) of the elements are equal, 2 differ beyond ties"
    )


@pytest.mark.parametrize(
    ("runner", "named"), [("fp32_compute", "as converted"), ("fp16_emulation", "in FP16 arithmetic")]
)
def test_a_failure_says_which_way_of_running_the_graph_failed(runner: str, named: str) -> None:
    (line,) = verdict.failed_comparison_lines(
        dataclasses.replace(comparison(Stage.FP16, check("max_error")), runner=runner)
    )
    assert line.startswith(f"fp16 {named} against simplify: ")


def test_noise_beyond_the_cap_is_named_with_what_helps_and_no_blame() -> None:
    noisy = dataclasses.replace(check("max_error", "noise"), tolerance=dataclasses.replace(TOLERANCE, noise=0.58))
    report = written(comparison(Stage.GOLDEN, noisy), comparison(Stage.FP16, check("max_error")))
    seen = verdict.conclude(report, Path("run"))
    assert len(seen.reasons) == 1
    assert "5.8e-01" in seen.reasons[0]
    assert "1.0e-03" in seen.reasons[0]
    assert "--weights" in seen.next
    assert "blame" not in seen.next
    assert verdict.noisy(written(comparison(Stage.FP16, check("max_error")))) is None


def test_what_was_not_run_is_not_measured() -> None:
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
def test_the_reach_names_the_node_that_gets_furthest(
    largest: dict[str, float], node: str, overflows: bool, coarse: tuple[str, ...]
) -> None:
    reach = verdict.fp16_range(largest, WEIGHTS)
    assert (reach.node, reach.overflows, reach.coarse) == (node, overflows, coarse)
    assert math.isfinite(reach.largest)
    lines = verdict.failed_lines(written(reach=reach))
    assert bool(lines) is overflows
    assert not lines or node in lines[0]


OVERFLOW = Fp16Range("/stem/Conv", 1e6, ("/stem/Conv",), WEIGHTS)


@pytest.mark.parametrize(
    ("report", "mends"),
    [
        (written(comparison(Stage.FP16, check())), False),
        (written(comparison(Stage.FP16, check("max_error"))), True),
        (written(comparison(Stage.FP16, check()), reach=OVERFLOW), True),
        (written(comparison(Stage.BUILD, check("bad")), reach=OVERFLOW), True),
        (written(comparison(Stage.SIMPLIFY, check("max_error")), comparison(Stage.FP16, check("max_error"))), False),
    ],
)
def test_fp32_may_mend_what_fp16_alone_broke(report: Report, mends: bool) -> None:
    assert verdict.may_keep_fp32_help(report) is mends
    kept = dataclasses.replace(report, choices={"keep_fp32": ["stem"]})
    assert verdict.may_keep_fp32_help(kept) is False


def closing(report: Report, found: Finding | None = None) -> tuple[str, tuple[str, ...], list[str]]:
    seen = verdict.conclude(report, Path("run"), found)
    return seen.verdict, seen.reasons, [f"{step.what} {step.command}".strip() for step in seen.steps]


FINDING = Finding(
    Stage.FP16, Stage.REWRITE, "stem", lost=False, layer=Layer("stem", "t", "/stem/Conv", "Conv", 1.0, 0.1), before=None
)
MISSED = FaultsResult((), (MissedFault("graph", "bias_dropped", "/stem", 0.1, 7.0),), 8, (3,))


def test_a_failure_names_the_mend_and_the_command_that_finds_the_layer() -> None:
    report = written(comparison(Stage.EXPORT, check()), comparison(Stage.FP16, check("max_error")))
    (failed,) = verdict.failed_comparison_lines(report.comparisons[1])
    keep = "the same command with --keep-fp32 auto"
    assert closing(report) == ("FAIL", (failed,), [keep, "find the layer with deploytool blame run"])
    where = "fp16 strays from rewrite first in stem, seen at Conv /stem/Conv"
    small = "make the failure small with deploytool blame run --reduce"
    assert closing(report, FINDING) == ("FAIL", (failed, where), [keep, small])


def test_the_verdicts_come_in_the_order_of_the_exit_codes() -> None:
    late, pending = (
        Gate(2.0, Stage.BUILD, GateOutcome.MISSED),
        comparison(Stage.BUILD, status=Status.BUILT_NOT_RUN),
    )
    every = dataclasses.replace(written(comparison(Stage.FP16, check("bad")), pending), gate=late, proof=MISSED)
    assert closing(every)[0] == "FAIL"
    held = dataclasses.replace(every, comparisons=(comparison(Stage.FP16, check()), pending))
    assert closing(held)[:2] == ("too slow", ("build is not surely 2× as fast as eager",))
    assert closing(dataclasses.replace(held, gate=None))[0] == "not proven"
    assert closing(dataclasses.replace(held, gate=None, proof=PROVED))[0] == "pass for all that ran here"
    pack = ["pack it for a device with deploytool pack run"]
    assert closing(written(comparison(Stage.FP16, check()))) == ("pass", (), pack)


def test_only_what_has_an_fp16_graph_can_be_packed() -> None:
    further = ["the same command with --trt, and without --to onnx, goes on to FP16 and an engine"]
    assert closing(written(comparison(Stage.REWRITE, check()))) == ("pass", (), further)


def test_what_a_run_was_told_to_leave_out_is_pending() -> None:
    report = written(comparison(Stage.FP16, check()))
    assert verdict.conclude(report, Path("run")).pending == ()
    bare = dataclasses.replace(report, proof=None, rounds=0)
    seen = verdict.conclude(bare, Path("run"))
    assert seen.verdict == "pass for all that ran here"
    assert seen.pending == ("the checks themselves: no fault was planted", "speed: not timed")
    assert verdict.unmeasured_lines(bare) == ()


def test_a_speed_that_was_not_measured_is_pending_and_not_passed() -> None:
    gate = Gate(2.0, Stage.BUILD, GateOutcome.OPEN, "built, not run")
    seen = verdict.conclude(dataclasses.replace(written(comparison(Stage.FP16, check())), gate=gate), Path("run"))
    assert (seen.verdict, seen.pending) == ("pass for all that ran here", ("the speed of build: built, not run",))
    assert seen.held
