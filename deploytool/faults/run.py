"""Proves the parity check: plants faults in the graph that ships, and counts what the golden cases make of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import onnx

from deploytool.backends import fp16_emulation, onnxruntime
from deploytool.backends.session import Session
from deploytool.data import golden, images, synthetic
from deploytool.data.golden import Arrays, Golden
from deploytool.errors import StageFailed
from deploytool.faults import kinds
from deploytool.faults.effect import effects
from deploytool.faults.kinds import Fault
from deploytool.faults.kinds.graph import FaultGraph, Weight
from deploytool.host import owner
from deploytool.loading import weights_file
from deploytool.parity import metrics
from deploytool.parity.metrics import Tolerances
from deploytool.parity.replay import SMALL_BATCHES, replay
from deploytool.results.faults import ENGINE, GRAPH, DetectionCount, FaultFamily, FaultsResult, MissedFault
from deploytool.results.report import Tolerance

_SEED = 1 << 20  # of fresh cases: no golden sample is drawn with it
_SIDE_BY_SIDE = 4  # faults, where there are so many cores: each holds a graph and what it answers
_MATTERS = 2.0  # times the tolerance: what moves a fresh case further must be noticed


@dataclass(frozen=True)
class Subject:
    """What is put to the proof: the graph that ships, the graph it was made from, and the golden sample.

    `half` says that the graph computes in FP16; `state` are the source model's weights by name; `pixels` and `fresh`
    are cases that are not in the sample.
    """

    graph: Path
    before: Path
    half: bool
    sample: Golden
    allowed: Tolerances
    state: Mapping[str, Weight]
    pixels: images.Pixels
    fresh: Arrays


def subject(
    weights: Path, recorded: Path, before: Path, graph: Path, *, half: bool, wanted: Mapping[str, float], fresh: int
) -> Subject:
    """The subject of a run's files; `wanted` are the tolerances that were asked for, `fresh` cases are drawn."""
    sample, model = golden.read(recorded), weights_file.definition(weights)
    sizes = {
        word: sample.inputs[tensor.name].shape[axis]
        for tensor in model.inputs
        for axis, word in enumerate(tensor.shape)
        if isinstance(word, str)
    }
    pixels, inputs = synthetic.draw(model, fresh, _SEED, sizes, hard=True)
    allowed, floats = metrics.tolerances(sample.noise, wanted), weights_file.float_values(weights)
    state = {name: np.frombuffer(each.data, each.dtype).reshape(each.shape) for name, each in floats.items()}
    return Subject(graph, before, half, sample, allowed, state, pixels, inputs)


@dataclass(frozen=True)
class Check:
    """One check: what it expects of the golden cases, what it tolerates, and where answers are ties."""

    expected: Arrays
    tolerance: Tolerance
    ties: Arrays


@dataclass(frozen=True)
class CheckSet:
    """A subject ready for faults: its graph with every operator in FP32, what that answers, and the checks of the run.

    With FP32 operators, what a fault does is not lost in rounding. `answers` are those to the fresh cases.
    """

    subject: Subject
    graph: FaultGraph
    answers: Arrays
    checks: Mapping[str, Check]
    sound: bool


@dataclass(frozen=True)
class Trial:
    """One fault in one check: its largest error on the golden cases; its effect on each fresh one if not caught."""

    caught: bool
    error: float
    effects: tuple[float, ...] = ()


def ready(subject: Subject) -> CheckSet:
    """Runs the graph as it is; `sound` says that no check fails on it."""
    model = onnx.load(subject.graph)
    made = fp16_emulation.emulate(model, results=False) if subject.half else model
    graph, checks = FaultGraph(made, subject.half, subject.state, subject.sample.preprocessing), _checks(subject)
    with _started(graph) as session:
        got, answers = (replay(session, inputs, SMALL_BATCHES) for inputs in (subject.sample.inputs, subject.fresh))
    sound = not any(_judged(got, check).caught for check in checks.values())
    return CheckSet(subject, graph, answers, checks, sound)


def run(subject: Subject, count: int, seed: int, watch: Callable[[int, int], None]) -> FaultsResult:
    """Plants up to `count` faults of every family; the same seed plants the same faults.

    Where a check fails on the graph as it is, nothing can be proved of it, and there are no families.
    """
    bench = ready(subject)
    if not bench.sound:
        return FaultsResult((), (), 0, ())
    planted = [_planted(bench, number, count, seed) for number in range(len(kinds.FAMILIES))]
    tried = [fault for each in planted for fault in each if fault.same is None]
    results = iter(_attempts(bench, tried, watch))
    families, missed, wanted = [], [], []
    for name, each in zip(kinds.FAMILIES, planted, strict=True):
        trials = [next(results) for fault in each if fault.same is None]
        families.append(FaultFamily(name, len(each), len(each) - len(trials), _powers(trials, bench.checks)))
        for fault, trial in zip((fault for fault in each if fault.same is None), trials, strict=True):
            for check, found in trial.items():
                if _misses(found):
                    missed.append(MissedFault(check, name, fault.place, fault.size, max(found.effects)))
                    wanted.append({case for case, effect in enumerate(found.effects) if effect > 1})
    return FaultsResult(tuple(families), tuple(missed), len(subject.pixels), _cover(wanted))


def _planted(bench: CheckSet, number: int, count: int, seed: int) -> list[Fault]:
    """Up to `count` faults of one family."""
    rng = np.random.default_rng((seed, number))
    return list(islice(kinds.load(kinds.FAMILIES[number]).faults(bench.graph, rng), count))


def _attempts(bench: CheckSet, tried: list[Fault], watch: Callable[[int, int], None]) -> list[dict[str, Trial]]:
    """What the checks make of each of these faults, in their order."""
    trials = []
    with ThreadPoolExecutor(min(_SIDE_BY_SIDE, os.cpu_count() or 1)) as pool:
        for trial in pool.map(partial(try_fault, bench), tried):
            trials.append(trial)
            watch(len(trials), len(tried))
    return trials


def write_helpful_cases(path: Path, subject: Subject, proof: FaultsResult) -> None:
    """Writes the cases with which the golden sample would have caught every fault."""
    chosen = list(proof.helpful)
    making = path.with_name(f".making-{owner.name()}-{path.name}")
    golden.write_cases(making, subject.pixels[chosen], {name: array[chosen] for name, array in subject.fresh.items()})
    making.replace(path)


def try_fault(bench: CheckSet, fault: Fault) -> dict[str, Trial]:
    """What the checks make of one fault; a graph that does not run, or answers in other shapes, deceives nobody."""
    spoiled = bench.graph.copy()
    fault.plant(spoiled)
    try:
        with _started(spoiled) as session:
            got = replay(session, bench.subject.sample.inputs, SMALL_BATCHES)
            found = {name: _judged(got, check) for name, check in bench.checks.items()}
            if all(trial.caught for trial in found.values()):
                return found
            spoilt = replay(session, bench.subject.fresh, SMALL_BATCHES)
    except (StageFailed, ValueError):
        return {name: Trial(True, float("inf")) for name in bench.checks}
    return {name: trial if trial.caught else _felt(bench, trial, name, spoilt) for name, trial in found.items()}


def _checks(subject: Subject) -> dict[str, Check]:
    """The checks of the run: of the graph as converted, and of what FP16 makes of it, where there is FP16."""
    inputs, allowed, ties = subject.sample.inputs, subject.allowed, subject.sample.ties(half=subject.half)
    if not subject.half:
        with onnxruntime.start(subject.before) as exact:
            return {GRAPH: Check(replay(exact, inputs), allowed.fp32, ties)}
    with fp16_emulation.start_with_rounded_weights(subject.before, subject.graph) as narrow:
        converted = replay(narrow, inputs)
    return {GRAPH: Check(converted, allowed.fp32, ties), ENGINE: Check(subject.sample.reference, allowed.fp16, ties)}


def _started(graph: FaultGraph) -> AbstractContextManager[Session]:
    return onnxruntime.start(graph.model.SerializeToString(), threads=1)  # the faults themselves go side by side


def _judged(got: Arrays, check: Check) -> Trial:
    found = metrics.check(got, check.expected, "", check.tolerance, check.ties)
    return Trial(bool(found.broken), found.parity.max_error)


def _felt(bench: CheckSet, trial: Trial, check: str, spoilt: Arrays) -> Trial:
    """The trial of a fault that a check did not catch, with its effect on the fresh cases."""
    limit, fp32 = bench.checks[check].tolerance.max_error, bench.subject.allowed.fp32.max_error
    return replace(trial, effects=tuple(effects(spoilt, bench.answers, bench.subject.sample, limit, fp32).tolist()))


def _misses(trial: Trial) -> bool:
    return not trial.caught and bool(max(trial.effects) > _MATTERS)


def _powers(trials: list[dict[str, Trial]], checks: Mapping[str, Check]) -> dict[str, DetectionCount]:
    powers = {}
    for name in checks:
        mine = [trial[name] for trial in trials]
        caught = [trial.error for trial in mine if trial.caught]
        missed = sum(_misses(trial) for trial in mine)
        smallest = min((error for error in caught if error < 1), default=None)
        powers[name] = DetectionCount(len(caught), len(mine) - len(caught) - missed, missed, smallest)
    return powers


def _cover(wanted: list[set[int]]) -> tuple[int, ...]:
    """A few cases, one at least of every set: each time the one that most of the sets left want."""
    chosen: list[int] = []
    while wanted:
        votes = [case for cases in wanted for case in sorted(cases)]
        chosen.append(max(votes, key=votes.count))
        wanted = [cases for cases in wanted if chosen[-1] not in cases]
    return tuple(sorted(chosen))
