"""Tests the parity checks: plants faults in the graph that ships, and counts those that the golden cases detect."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from deploytool.backends import fp16_emulation, onnxruntime
from deploytool.backends.session import Session
from deploytool.data import golden, images, synthetic
from deploytool.data.golden import Arrays, Golden
from deploytool.errors import StageFailed
from deploytool.faults.effect import effects
from deploytool.faults.kinds import families
from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, Weight
from deploytool.host import owner
from deploytool.loading import weights_file
from deploytool.parity import metrics
from deploytool.parity.metrics import Tolerances
from deploytool.parity.replay import SMALL_BATCHES, replay
from deploytool.results.faults import ENGINE, GRAPH, DetectionCount, FaultFamily, FaultsResult, MissedFault
from deploytool.results.report import Tolerance
from deploytool.rewrites.graph import storage, weights
from deploytool.spec import Precision, Preprocessing

_SEED = 1 << 20  # of fresh cases: golden samples are drawn with other seeds
_PARALLEL = 4  # faults tried at once, given as many cores: each holds a graph and its answers
_MUST_DETECT = 2.0  # multiple of the tolerance beyond which an effect on a fresh case must be detected


@dataclass(frozen=True)
class Subject:
    """The graph that ships, the graph it was made from, and the golden sample whose checks are tested.

    `half` says that the graph computes in FP16; `state` holds the source model's weights by name; `fresh` holds inputs
    that are not in the sample, and `pixels` their images. `preprocessing` has the normalisation of images, which may be
    part of the graph.
    """

    graph: Path
    before: Path
    half: bool
    sample: Golden
    allowed: Tolerances
    state: Mapping[str, Weight]
    pixels: images.Pixels
    fresh: Arrays
    preprocessing: Preprocessing


def subject(
    source: Path, recorded: Path, before: Path, graph: Path, *, half: bool, wanted: Mapping[str, float], fresh: int
) -> Subject:
    """The subject from a run's files; `source` holds the weights of the source model.

    `wanted` are the requested tolerances, `fresh` is the number of fresh cases.
    """
    sample, model = golden.read(recorded), weights_file.definition(source)
    sizes = {
        word: sample.inputs[tensor.name].shape[axis]
        for tensor in model.inputs
        for axis, word in enumerate(tensor.shape)
        if isinstance(word, str)
    }
    drawn, inputs = synthetic.draw(model, fresh, _SEED, sizes, hard=True)
    allowed, floats = metrics.tolerances(sample.noise, wanted), weights_file.float_values(source)
    state = {name: np.frombuffer(value.data, value.dtype).reshape(value.shape) for name, value in floats.items()}
    how = model.normalisation or sample.preprocessing
    pixels = golden.first_pixels(drawn, fresh)
    return Subject(graph, before, half, sample, allowed, state, pixels, inputs, how)


@dataclass(frozen=True)
class Check:
    """One check: the expected answers to the golden cases, the tolerance, and the ties."""

    expected: Arrays
    tolerance: Tolerance
    ties: Arrays


@dataclass(frozen=True)
class CheckSet:
    """A subject prepared for faults: its graph with FP32 operators, its answers to the fresh cases, and the checks.

    With FP32 operators, rounding does not mask the effect of a fault. `sound` says that no check fails without a fault.
    """

    subject: Subject
    graph: FaultGraph
    answers: Arrays
    checks: Mapping[str, Check]
    sound: bool


@dataclass(frozen=True)
class Trial:
    """One fault in one check: its maximum error on the golden cases; if not caught, its effect on each fresh case."""

    caught: bool
    error: float
    effects: tuple[float, ...] = ()


def prepare(subject: Subject) -> CheckSet:
    """Runs the graph without faults and returns its checks."""
    model = storage.load(subject.graph)
    widened = fp16_emulation.emulate(model, results=False) if subject.half else model
    graph, checks = FaultGraph(widened, subject.half, subject.state, subject.preprocessing), _checks(subject)
    with _start(graph) as session:
        got, answers = (replay(session, inputs, SMALL_BATCHES) for inputs in (subject.sample.inputs, subject.fresh))
    sound = not any(_try(got, check).caught for check in checks.values())
    return CheckSet(subject, graph, answers, checks, sound)


def run(subject: Subject, count: int, seed: int, watch: Callable[[int, int], None]) -> FaultsResult:
    """Plants up to `count` faults of every family; the same seed plants the same faults.

    If a check fails without a fault, its detection cannot be measured and the result has no families.
    """
    check_set = prepare(subject)
    if not check_set.sound:
        return FaultsResult((), (), 0, ())
    planted = [_plant(check_set, number, count, seed) for number in range(len(families.FAMILIES))]
    tried = [fault for faults in planted for fault in faults if fault.same is None]
    results = iter(_try_all(check_set, tried, watch))
    family_results, missed, detecting = [], [], []
    for name, faults in zip(families.FAMILIES, planted, strict=True):
        effective = [fault for fault in faults if fault.same is None]
        trials = [next(results) for _ in effective]
        counts = _detection_counts(trials, check_set.checks)
        family_results.append(FaultFamily(name, len(faults), len(faults) - len(trials), counts))
        for fault, by_check in zip(effective, trials, strict=True):
            for check, trial in by_check.items():
                if _is_missed(trial):
                    missed.append(MissedFault(check, name, fault.place, fault.size, max(trial.effects)))
                    detecting.append({case for case, effect in enumerate(trial.effects) if effect > 1})
    return FaultsResult(tuple(family_results), tuple(missed), len(subject.pixels), _smallest_cover(detecting))


def _plant(check_set: CheckSet, number: int, count: int, seed: int) -> list[Fault]:
    """Up to `count` faults of one family."""
    rng = np.random.default_rng((seed, number))
    return list(islice(families.load(families.FAMILIES[number]).faults(check_set.graph, rng), count))


def _try_all(check_set: CheckSet, tried: list[Fault], watch: Callable[[int, int], None]) -> list[dict[str, Trial]]:
    """The trials of each fault by check, in the order of the faults."""
    trials = []
    parallel = 1 if weights.is_large(check_set.graph.model) else _PARALLEL  # each session holds all weights
    with ThreadPoolExecutor(min(parallel, os.cpu_count() or 1)) as pool:
        for trial in pool.map(partial(try_fault, check_set), tried):
            trials.append(trial)
            watch(len(trials), len(tried))
    return trials


def write_helpful_cases(path: Path, subject: Subject, result: FaultsResult) -> None:
    """Writes the fresh cases with which the golden sample would detect every missed fault."""
    chosen = list(result.helpful)
    unfinished = path.with_name(f".making-{owner.name()}-{path.name}")
    golden.write_cases(
        unfinished, subject.pixels[chosen], {name: array[chosen] for name, array in subject.fresh.items()}
    )
    unfinished.replace(path)


def try_fault(check_set: CheckSet, fault: Fault) -> dict[str, Trial]:
    """The trial of one fault in each check; a graph that fails to run or changes its shapes counts as caught."""
    faulty = check_set.graph.copy()
    fault.plant(faulty)
    try:
        with _start(faulty) as session:
            got = replay(session, check_set.subject.sample.inputs, SMALL_BATCHES)
            trials = {name: _try(got, check) for name, check in check_set.checks.items()}
            if all(trial.caught for trial in trials.values()):
                return trials
            answers = replay(session, check_set.subject.fresh, SMALL_BATCHES)
    except (StageFailed, ValueError):
        return {name: Trial(True, float("inf")) for name in check_set.checks}
    return {
        name: trial if trial.caught else _with_effects(check_set, trial, name, answers)
        for name, trial in trials.items()
    }


def _checks(subject: Subject) -> dict[str, Check]:
    """The checks of the run: of the converted graph, and with FP16 also of FP16 arithmetic against FP64."""
    inputs, allowed = subject.sample.inputs, subject.allowed
    ties = subject.sample.ties(Precision.FP16 if subject.half else Precision.FP32)
    if not subject.half:
        with onnxruntime.start(subject.before) as exact:
            return {GRAPH: Check(replay(exact, inputs), allowed.fp32, ties)}
    with fp16_emulation.start_with_rounded_weights(subject.before, subject.graph) as narrow:
        converted = replay(narrow, inputs)
    return {GRAPH: Check(converted, allowed.fp32, ties), ENGINE: Check(subject.sample.reference, allowed.fp16, ties)}


@contextmanager
def _start(graph: FaultGraph) -> Iterator[Session]:
    """A session of a graph with FP32 operators; it takes FP16 inputs as FP32."""
    parts, large = weights.session_parts(graph.model), weights.is_large(graph.model)
    with onnxruntime.start(  # the faults run in parallel; optimised, a large one has its FP16 weights in FP32 as well
        parts.message, threads=1, weights=parts.arrays, folder=parts.folder, optimise=not large
    ) as session:
        del parts
        yield lambda **inputs: session(
            **{name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in inputs.items()}
        )


def _try(got: Arrays, check: Check) -> Trial:
    result = metrics.check(got, check.expected, "", check.tolerance, check.ties)
    return Trial(bool(result.broken), result.parity.max_error)


def _with_effects(check_set: CheckSet, trial: Trial, check: str, answers: Arrays) -> Trial:
    """The trial of a fault that a check did not catch, with its effect on the fresh cases."""
    limit, fp32 = check_set.checks[check].tolerance.max_error, check_set.subject.allowed.fp32.max_error
    return replace(
        trial, effects=tuple(effects(answers, check_set.answers, check_set.subject.sample, limit, fp32).tolist())
    )


def _is_missed(trial: Trial) -> bool:
    return not trial.caught and bool(max(trial.effects) > _MUST_DETECT)


def _detection_counts(trials: list[dict[str, Trial]], checks: Mapping[str, Check]) -> dict[str, DetectionCount]:
    counts = {}
    for name in checks:
        of_check = [by_check[name] for by_check in trials]
        caught = [trial.error for trial in of_check if trial.caught]
        missed = sum(_is_missed(trial) for trial in of_check)
        smallest = min((error for error in caught if error < 1), default=None)
        counts[name] = DetectionCount(len(caught), len(of_check) - len(caught) - missed, missed, smallest)
    return counts


def _smallest_cover(sets: list[set[int]]) -> tuple[int, ...]:
    """A few cases with at least one of every set, chosen greedily by the number of sets that contain them."""
    chosen: list[int] = []
    left = sets
    while left:
        votes = [case for cases in left for case in sorted(cases)]
        chosen.append(max(votes, key=votes.count))
        left = [cases for cases in left if chosen[-1] not in cases]
    return tuple(sorted(chosen))
