"""Runs work on a bundle in a child process with limits, and reports the result of each candidate."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploytool import serde
from deploytool.benchmark.ratio import Ratio
from deploytool.bundle.manifest import MAX_MEMORY_MIB, Manifest
from deploytool.device import corners
from deploytool.device.candidates import ACCEPTED_TIERS, CPU_TIERS, Candidate, Tier, tier_name
from deploytool.device.worker import Answer, Request, Trial
from deploytool.errors import (
    BadInput,
    ChildDied,
    DeployError,
    NotVerified,
    OutOfMemory,
    ParityFailed,
    ResourceExhausted,
    StageFailed,
)
from deploytool.host import disk, files, memory, scratch, workers
from deploytool.host.process import run_limited
from deploytool.results import verdict
from deploytool.spec import ADDED, BATCH, Precision, StrEnum

WORKER = workers.command("deploytool.device.worker")

_MAX_ANSWER_BYTES = 16 << 20
_SIGKILL = getattr(signal, "SIGKILL", 0) or -1  # absent on Windows; our own limits are reported by their cause
_ERRORS = {kind.__name__: kind for kind in (*DeployError.__subclasses__(), ResourceExhausted, ChildDied, OutOfMemory)}


class Attempt(StrEnum):
    """The outcome of one way to run a bundle on a device."""

    MEASURED = "measured"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


@dataclass(frozen=True)
class Limits:
    """Limits of a child process: wall-clock seconds, and gibibytes of memory on a CPU (CUDA reserves without using it).

    No file that it writes may exceed `max_file_bytes`.
    """

    seconds: float = 120.0
    gibibytes: float = MAX_MEMORY_MIB / 1024
    max_file_bytes: int = _MAX_ANSWER_BYTES


@dataclass(frozen=True)
class ProbeResult:
    """The result of one candidate, and why it was skipped or failed.

    `died` says that the process that ran it died, `int8` that it computes in INT8. `precision` is that of its file,
    None in results of earlier versions.
    """

    tier: Tier
    file: str
    status: Attempt
    reason: str = ""
    trial: Trial | None = None
    died: bool = False
    int8: bool = field(default=False, metadata=ADDED)
    precision: Precision | None = field(default=None, metadata=ADDED)

    @property
    def computes_in(self) -> Precision | None:
        """Its precision, as far as it is known."""
        return Precision.INT8 if self.int8 else self.precision

    @property
    def name(self) -> str:
        """What was tried: the tier, and the precision if it is not the usual one of its tier."""
        return tier_name(self.tier, self.computes_in)

    @property
    def passed(self) -> bool:
        """Whether it ran here with the right outputs."""
        return self.status is Attempt.MEASURED

    @property
    def deviates(self) -> bool:
        """Whether its outputs are wrong, or it does not run at a corner of the bundle."""
        return bool(self.trial and (self.trial.check.broken or corners.failure(self.trial.corners)))

    @property
    def is_bundles_fault(self) -> bool:
        """Whether the bundle is the cause: its outputs are wrong, or the process that runs it dies."""
        return self.died or self.deviates


@dataclass(frozen=True)
class Race:
    """Two runtimes that work on the CPU, timed in turn on one batch.

    `speedup` is that of the second over the first; None if it could not be measured, for `reason`. `serves` is the
    second if it is significantly faster, else the first.
    """

    first: Tier
    second: Tier
    serves: Tier
    batch: int
    speedup: Ratio | None = None
    reason: str = ""


@dataclass(frozen=True)
class Int8Speed:
    """How many times as fast INT8 is as FP32 in one runtime on the CPU, timed in turn on one batch.

    `speedup` is None if it could not be measured, for `reason`.
    """

    tier: Tier
    batch: int
    speedup: Ratio | None = None
    reason: str = ""

    @property
    def is_gain(self) -> bool:
        """Whether INT8 is significantly faster."""
        return self.speedup is not None and self.speedup.low > 1


@dataclass(frozen=True)
class Probing:
    """The result of each candidate that was tried, and of the race between two of them if there was one.

    The first result that passed is of the candidate that serves: the winner of a race stands before the loser.
    """

    results: tuple[ProbeResult, ...]
    race: Race | None = None


Prober = Callable[[Candidate], ProbeResult]
Racer = Callable[[Candidate, Candidate], Race]


def probe(
    candidate: Candidate,
    folder: Path,
    manifest: Manifest,
    seconds: float,
    worker: Sequence[str] = WORKER,
    limits: Limits = Limits(),
    *,
    at_corners: bool = False,
) -> ProbeResult:
    """Runs the golden cases on one candidate and times it for `seconds`; a failure becomes the reason.

    With `at_corners` it is compared at every corner of the bundle too, and each may take as long as the golden cases.
    """
    skipped = ProbeResult(candidate.tier, Path(candidate.path).name, Attempt.UNAVAILABLE, int8=candidate.is_int8)
    skipped = replace(skipped, precision=candidate.precision)
    failed = replace(skipped, status=Attempt.FAILED)
    if candidate.absent:
        return replace(skipped, reason=candidate.absent)
    try:
        request = Request("try", str(folder), manifest, candidate, "", seconds, corners=at_corners)
        allowed_s = limits.seconds * (1 + at_corners * len(manifest.corners)) + seconds
        trial = run_worker(request, worker=worker, limits=replace(limits, seconds=allowed_s)).trial
    except DeployError as error:
        return replace(failed, reason=str(error), died=isinstance(error, ChildDied))
    if trial is None:
        return replace(failed, reason="it gave no answer")
    if trial.check.broken:
        return replace(failed, reason=f"golden mismatch: {verdict.describe_failure(trial.check)}", trial=trial)
    if wrong := corners.failure(trial.corners):
        why = verdict.describe_failure(wrong.check) if wrong.check else wrong.reason
        return replace(failed, reason=f"at the corner {wrong.corner}: {why}", trial=trial)
    return replace(failed, status=Attempt.MEASURED, trial=trial)


def race(
    first: Candidate,
    second: Candidate,
    folder: Path,
    manifest: Manifest,
    seconds: float,
    worker: Sequence[str] = WORKER,
    limits: Limits = Limits(),
) -> Race:
    """Times two candidates that passed, in turn in one process; where that fails, the first one serves."""
    request = Request("race", str(folder), manifest, first, "", seconds, rival=second)
    result = Race(first.tier, second.tier, first.tier, manifest.free[BATCH].smallest)
    try:
        answer = run_worker(request, worker=worker, limits=replace(limits, seconds=limits.seconds + seconds))
    except DeployError as error:
        return replace(result, reason=str(error))
    is_faster = answer.speedup is not None and answer.speedup.low > 1
    return replace(result, speedup=answer.speedup, serves=second.tier if is_faster else first.tier)


def _gibibytes(candidate: Candidate, limits: Limits) -> float:
    """The limit on the memory of a child; weights in side files come on top: as read, and twice in the library."""
    if candidate.device != "cpu":
        return math.inf
    return limits.gibibytes + 3 * sum(side.size for side in candidate.weights) / (1 << 30)


def run_worker(
    request: Request,
    *,
    worker: Sequence[str] = WORKER,
    limits: Limits = Limits(),
    on_line: Callable[[str], None] | None = None,
) -> Answer:
    """The answer of a child process to a request; `on_line` takes each line that it prints.

    Raises StageFailed if the child crashes, hangs, runs out of memory or gives no readable answer, ResourceExhausted if
    the machine has no memory left, and the error that the child reports.
    """
    candidate = request.candidate
    name = f"{candidate.tier} ({Path(candidate.path).name})"
    with scratch.folder() as folder:
        request_file, answer_file = folder / "request.json", folder / "answer.json"
        disk.write(request_file, serde.text(replace(request, answer=str(answer_file))).encode())
        with _attributing_kills(candidate):
            run_limited(
                [*worker, str(request_file)],
                what=name,
                seconds=limits.seconds,
                gibibytes=_gibibytes(candidate, limits),
                max_file_bytes=limits.max_file_bytes,
                on_line=on_line,
            )
        try:
            answer = serde.decode(Answer, serde.loads(files.read(answer_file, _MAX_ANSWER_BYTES)))
        except (DeployError, serde.Malformed) as error:
            raise StageFailed(f"{name} gave no answer", "leave it out, or report it") from error
    if answer.problem:
        raise _ERRORS.get(answer.kind, StageFailed)(answer.problem, answer.remedy)
    return answer


@contextmanager
def _attributing_kills(candidate: Candidate) -> Iterator[None]:
    """Raises ResourceExhausted instead of ChildDied if the kernel kills a child that limits its own memory."""
    available = memory.available_bytes()
    try:
        yield
    except ChildDied as error:
        limit = (candidate.memory_mib or 0) << 20 if candidate.device == "cpu" else 0
        is_short = available is not None and available < limit
        if limit and (error.signal == _SIGKILL or (error.signal == signal.SIGABRT and is_short)):
            raise ResourceExhausted(f"{error}; the machine has too little memory available", memory.REMEDY) from error
        raise


def probe_in_order(
    candidates: Sequence[Candidate], prober: Prober, *, every: bool = False, racer: Racer | None = None
) -> Probing:
    """Probes the candidates down to the first that works; with `every`, all of them.

    With a `racer`, if the first that works is on the CPU, the other runtime for the CPU is probed too, and if both
    work, the race decides which of them serves. Of the candidates of a runtime, the first that works takes part.
    """
    results: list[ProbeResult] = []
    passed: list[Candidate] = []
    for candidate in candidates:
        rivals = racer is not None and passed and passed[0].tier in CPU_TIERS and candidate.absent is None
        if passed and not every and (not rivals or any(each.tier is candidate.tier for each in passed)):
            continue
        results.append(prober(candidate))
        passed += [candidate] if results[-1].passed else []
    rival = next((each for each in passed if each.tier in CPU_TIERS and each.tier is not passed[0].tier), None)
    if racer is None or rival is None or passed[0].tier not in CPU_TIERS:
        return Probing(tuple(results))
    outcome = racer(passed[0], rival)
    order = sorted(results, key=lambda result: result.tier is outcome.first and outcome.serves is not outcome.first)
    return Probing(tuple(order), outcome)


def int8_speeds(candidates: Sequence[Candidate], results: Sequence[ProbeResult], racer: Racer) -> tuple[Int8Speed, ...]:
    """INT8 against FP32 in each runtime on the CPU in which both work."""
    passed = {(result.tier, result.file, result.int8) for result in results if result.passed}
    working = [each for each in candidates if (each.tier, Path(each.path).name, each.is_int8) in passed]
    speeds = []
    for tier in CPU_TIERS:
        by_precision = {each.is_int8: each for each in reversed(working) if each.tier is tier}
        if len(by_precision) == 2:
            race = racer(by_precision[False], by_precision[True])
            speeds.append(Int8Speed(tier, race.batch, race.speedup, race.reason))
    return tuple(speeds)


def serving(candidates: Sequence[Candidate], results: Sequence[ProbeResult]) -> Candidate:
    """The candidate of the first result that passed."""
    working = first_passed(results)
    identity = (working.tier, working.file, working.int8) if working else None
    return next(each for each in candidates if (each.tier, Path(each.path).name, each.is_int8) == identity)


def first_passed(results: Sequence[ProbeResult]) -> ProbeResult | None:
    """The first result that passed: its candidate is the one used."""
    return next((result for result in results if result.passed), None)


def tried_before(results: Sequence[ProbeResult]) -> Sequence[ProbeResult]:
    """The results before the first that passed."""
    working = first_passed(results)
    return results if working is None else results[: results.index(working)]


def shortfall(results: Sequence[ProbeResult], require: str | None) -> DeployError | None:
    """The error if no candidate works, or only candidates below the required backend (trt, cuda or cpu).

    Raises BadInput for another value of `require`.
    """
    if require is not None and require not in ACCEPTED_TIERS:
        raise BadInput(f"{str(require)[:40]!r} cannot be required", f"choose from {', '.join(ACCEPTED_TIERS)}")
    working = first_passed(results)
    if working and (require is None or working.tier in ACCEPTED_TIERS[require]):
        return None
    reasons = "; ".join(f"{result.tier}: {result.reason}" for result in tried_before(results))
    if working:
        problem = f"{require} is required, and only {working.tier} works here: {reasons}"
        return NotVerified(problem, "remove the cause, or require less")
    if any(result.deviates for result in results):
        problem = f"no backend reproduces the golden outputs here: {reasons}"
        return ParityFailed(problem, "pack the bundle again, or report it")
    died = any(result.died for result in results)
    remedy = f"{files.FETCH_AGAIN}, or report it" if died else "install onnxruntime, which needs no GPU"
    return NotVerified(f"nothing here runs the model: {reasons}", remedy)
