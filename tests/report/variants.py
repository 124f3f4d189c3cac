"""Runs as they may come out, made from a finished one by changing its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deploytool.benchmark import result as benching
from deploytool.results import blame as results_blame
from deploytool.results import report
from deploytool.results.faults import FaultsResult, MissedFault
from deploytool.results.report import Agreement, Check, ClassFlip, Comparison, Gate, Report
from deploytool.spec import Decision, GateOutcome, Stage, TargetPlan
from tests.benched import benchmark

HOSTILE = "<script>alert('x')</script>&\"{{ 7 * 7 }}"


def at(run: Path) -> Path:
    return run / "validate" / "report.json"


def written(run: Path) -> Report:
    return report.read(at(run))


def rewrite(run: Path, changed: Report) -> Path:
    """Puts another report in the place of that of a run."""
    report.write(at(run), changed)
    return run


def broken(sound: Report) -> Report:
    """The same, the last graph in FP32 being wrong."""
    return replace(
        sound,
        comparisons=tuple(
            _worse(comparison) if comparison.stage == "rewrite" else comparison for comparison in sound.comparisons
        ),
    )


def _worse(comparison: Comparison) -> Comparison:
    return replace(comparison, checks=tuple(_beyond(check) for check in comparison.checks))


def _beyond(check: Check) -> Check:
    far = replace(check.parity, max_error=0.25, snr_db=7.0)
    return replace(check, parity=far, broken=("max_error", "snr_db"))


def slow(sound: Report) -> Report:
    return replace(sound, gate=Gate(99.0, Stage.REWRITE, GateOutcome.MISSED))


def late(sound: Report) -> Report:
    return replace(sound, gate=Gate(99.0, Stage.BUILD, GateOutcome.OPEN, "built, not run"))


def weak(sound: Report) -> Report:
    assert sound.proof is not None
    missed = (MissedFault("graph", "bias_dropped", "/stem/Conv_output_0", 0.1, 7.0),)
    families = tuple(
        replace(family, power={name: replace(power, missed=1) for name, power in family.power.items()})
        if family.name == "bias_dropped"
        else family
        for family in sound.proof.families
    )
    return replace(sound, proof=FaultsResult(families, missed, sound.proof.fresh, (3,)))


def flipped(sound: Report) -> Report:
    """The same on photographs, of which FP16 saw two differently."""
    seen = Agreement(4, 0.5, 0.15, 0.85, 1.0, (ClassFlip(2, 0.01, 3, 7), ClassFlip(1, 0.001, 5, 2)))
    comparisons = tuple(
        replace(comparison, agreement=seen) if comparison.stage == "fp16" else comparison
        for comparison in sound.comparisons
    )
    return replace(sound, comparisons=comparisons, data="photographs")


def pending(sound: Report) -> Report:
    asked = (
        Decision("orin", TargetPlan.ON_DEVICE, "TensorRT builds only on the GPU it serves", "8.7", "tensorrt"),
        Decision("this", TargetPlan.NOT_SERVED, "this machine has no CUDA GPU that answers"),
    )
    return replace(sound, targets=(*sound.targets, *asked))


def bare(sound: Report) -> Report:
    """The same of a run that was told to plant no faults and to time nothing."""
    return replace(sound, proof=None, speeds=(), rounds=0)


def hostile(sound: Report) -> Report:
    """Somebody else's words in every place that takes them."""
    comparisons = tuple(replace(comparison, file=HOSTILE) for comparison in sound.comparisons)
    choices = {HOSTILE: HOSTILE, "keep_fp32": [HOSTILE]}
    return replace(
        sound, model=HOSTILE, device=HOSTILE, data=HOSTILE, comparisons=comparisons, remarks=(HOSTILE,), choices=choices
    )


def bench(run: Path, batches: tuple[int, ...] = (1, 8)) -> None:
    """Leaves a benchmark of the run's graphs, as `deploytool bench` would."""
    benching.write(run, benchmark(run, batches))


def blame(run: Path, *, wrong: bool) -> None:
    """Leaves what blame might have found."""
    layer = results_blame.Layer(
        "depthwise", "/depthwise/Conv_output_0", "/depthwise/Conv", "Conv", 0.5 if wrong else 1e-9, 1e-6
    )
    unknown = results_blame.Layer("", "t", "n", "Sigmoid", None, 1e-6)
    finding = results_blame.Finding(Stage.REWRITE, Stage.SIMPLIFY, "depthwise", lost=False, layer=layer, before=None)
    comparisons = tuple(
        results_blame.TracedGraph(stage, (), (layer, unknown)) for stage in (Stage.SIMPLIFY, Stage.REWRITE)
    )
    results_blame.write(
        run, results_blame._graphs(run), results_blame.Blame(comparisons, (0, 1), finding if wrong else None)
    )


ENDINGS = (lambda sound: sound, broken, slow, late, weak, flipped, pending, bare)
