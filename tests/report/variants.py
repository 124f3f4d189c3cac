"""Variants of a finished run, made by changing its report: one for each possible outcome."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deploytool.benchmark import result as benching
from deploytool.results import blame as results_blame
from deploytool.results import report as reports
from deploytool.results.faults import FaultsResult, MissedFault
from deploytool.results.report import Agreement, Check, ClassFlip, Comparison, Gate, Report
from deploytool.spec import Decision, GateOutcome, Stage, TargetPlan
from tests.benched import benchmark

HOSTILE = "<script>alert('x')</script>&\"{{ 7 * 7 }}"


def report_path(run: Path) -> Path:
    return run / "validate" / "report.json"


def written(run: Path) -> Report:
    return reports.read(report_path(run))


def rewrite(run: Path, changed: Report) -> Path:
    """Replaces the report of a run."""
    reports.write(report_path(run), changed)
    return run


def broken(report: Report) -> Report:
    """The last FP32 graph fails its checks."""
    return replace(
        report,
        comparisons=tuple(
            _fail_comparison(comparison) if comparison.stage == "rewrite" else comparison
            for comparison in report.comparisons
        ),
    )


def _fail_comparison(comparison: Comparison) -> Comparison:
    return replace(comparison, checks=tuple(_fail_check(check) for check in comparison.checks))


def _fail_check(check: Check) -> Check:
    parity = replace(check.parity, max_error=0.25, snr_db=7.0)
    return replace(check, parity=parity, broken=("max_error", "snr_db"))


def slow(report: Report) -> Report:
    """The required speed-up is missed."""
    return replace(report, gate=Gate(99.0, Stage.REWRITE, GateOutcome.MISSED))


def open_gate(report: Report) -> Report:
    """The required speed-up was not measured."""
    return replace(report, gate=Gate(99.0, Stage.BUILD, GateOutcome.OPEN, "built, not run"))


def weak(report: Report) -> Report:
    """The golden cases miss a large fault."""
    assert report.faults is not None
    missed = (MissedFault("graph", "bias_dropped", "/stem/Conv_output_0", 0.1, 7.0),)
    families = tuple(
        replace(family, by_check={name: replace(power, missed=1) for name, power in family.by_check.items()})
        if family.name == "bias_dropped"
        else family
        for family in report.faults.families
    )
    return replace(report, faults=FaultsResult(families, missed, report.faults.fresh, (3,)))


def flipped(report: Report) -> Report:
    """With user images, of which two have another class in FP16."""
    agreement = Agreement(4, 0.5, 0.15, 0.85, 1.0, (ClassFlip(2, 0.01, 3, 7), ClassFlip(1, 0.001, 5, 2)))
    comparisons = tuple(
        replace(comparison, agreement=agreement) if comparison.stage == "fp16" else comparison
        for comparison in report.comparisons
    )
    return replace(report, comparisons=comparisons, data="photographs")


def pending(report: Report) -> Report:
    """One target must be built on its device, and another cannot be served."""
    targets = (
        Decision("orin", TargetPlan.ON_DEVICE, "TensorRT builds only on the target GPU", "8.7", "tensorrt"),
        Decision("this", TargetPlan.NOT_SERVED, "no CUDA GPU was found on this machine"),
    )
    return replace(report, targets=(*report.targets, *targets))


def bare(report: Report) -> Report:
    """Without planted faults and without timing."""
    return replace(report, faults=None, speeds=(), rounds=0)


def hostile(report: Report) -> Report:
    """Hostile text in every free text field."""
    comparisons = tuple(replace(comparison, file=HOSTILE) for comparison in report.comparisons)
    choices = {HOSTILE: HOSTILE, "keep_fp32": [HOSTILE]}
    return replace(
        report,
        model=HOSTILE,
        device=HOSTILE,
        data=HOSTILE,
        comparisons=comparisons,
        remarks=(HOSTILE,),
        options=choices,
    )


def bench(run: Path, batches: tuple[int, ...] = (1, 8)) -> None:
    """Writes a bench.json for the graphs of a run."""
    benching.write(run, benchmark(run, batches))


def blame(run: Path, *, wrong: bool) -> None:
    """Writes a blame.json; `wrong` makes a layer deviate."""
    layer = results_blame.Layer(
        "depthwise", "/depthwise/Conv_output_0", "/depthwise/Conv", "Conv", 0.5 if wrong else 1e-9, 1e-6
    )
    unknown = results_blame.Layer("", "t", "n", "Sigmoid", None, 1e-6)
    finding = results_blame.Finding(
        Stage.REWRITE, Stage.SIMPLIFY, "depthwise", lost=False, layer=layer, worst_input=None
    )
    comparisons = tuple(
        results_blame.BlamedGraph(stage, (), (layer, unknown)) for stage in (Stage.SIMPLIFY, Stage.REWRITE)
    )
    results_blame.write(
        run, results_blame.graph_digests(run), results_blame.Blame(comparisons, (0, 1), finding if wrong else None)
    )


ENDINGS = (lambda report: report, broken, slow, open_gate, weak, flipped, pending, bare)
