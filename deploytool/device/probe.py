"""Sends work on a bundle into a child process with limits, and tells what became of each way to run it."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from deploytool import serde
from deploytool.bundle.manifest import MOST_MIB, Manifest
from deploytool.device.candidates import ACCEPTED_TIERS, Candidate, Tier
from deploytool.device.worker import Answer, Request, Trial
from deploytool.errors import BadInput, ChildDied, DeployError, NoRoom, NotVerified, ParityFailed, StageFailed
from deploytool.host import disk, files, memory, scratch, workers
from deploytool.host.process import run_limited
from deploytool.results import verdict
from deploytool.spec import Attempt

WORKER = workers.command("deploytool.device.worker")

_LONGEST_ANSWER = 16 << 20  # bytes
_KILLED = getattr(signal, "SIGKILL", 0) or -1  # by nobody of ours, who say why: Windows has none
_KINDS = {kind.__name__: kind for kind in (*DeployError.__subclasses__(), NoRoom, ChildDied)}


@dataclass(frozen=True)
class Limits:
    """What a child may take: wall-clock seconds, and gibibytes of memory on a CPU (CUDA reserves what it likes).

    `writes` are the bytes that a file may have which it writes.
    """

    seconds: float = 120.0
    gibibytes: float = MOST_MIB / 1024
    writes: int = _LONGEST_ANSWER


@dataclass(frozen=True)
class ProbeResult:
    """What became of one way, and why it was skipped or failed.

    It `died` if the process did that ran it.
    """

    tier: Tier
    file: str
    status: Attempt
    reason: str = ""
    trial: Trial | None = None
    died: bool = False

    @property
    def passed(self) -> bool:
        """Whether it ran here and answered as it should."""
        return self.status is Attempt.MEASURED

    @property
    def is_bundles_fault(self) -> bool:
        """Whether the bundle itself is to blame: it answers wrongly, or what runs it dies."""
        return self.died or bool(self.trial and self.trial.check.broken)


Prober = Callable[[Candidate], ProbeResult]


def probe(
    way: Candidate,
    folder: Path,
    manifest: Manifest,
    seconds: float,
    worker: Sequence[str] = WORKER,
    limits: Limits = Limits(),
) -> ProbeResult:
    """Runs the golden cases one way, and times it for `seconds`; whatever goes wrong there is the reason."""
    name = Path(way.path).name
    if way.absent:
        return ProbeResult(way.tier, name, Attempt.UNAVAILABLE, way.absent)
    try:
        request = Request("try", str(folder), manifest, way, "", seconds)
        trial = ask(request, worker=worker, limits=replace(limits, seconds=limits.seconds + seconds)).trial
    except DeployError as error:
        return ProbeResult(way.tier, name, Attempt.FAILED, str(error), died=isinstance(error, ChildDied))
    if trial is None:
        return ProbeResult(way.tier, name, Attempt.FAILED, "it gave no answer")
    if trial.check.broken:
        return ProbeResult(way.tier, name, Attempt.FAILED, f"golden mismatch: {_worst(trial)}", trial)
    return ProbeResult(way.tier, name, Attempt.MEASURED, trial=trial)


def _worst(trial: Trial) -> str:
    return verdict.reasons(trial.check)


def ask(
    request: Request,
    *,
    worker: Sequence[str] = WORKER,
    limits: Limits = Limits(),
    heard: Callable[[str], None] | None = None,
) -> Answer:
    """The child's answer to a request.

    Raises StageFailed if it crashes, hangs, runs out of memory or says nothing one can read, NoRoom if the machine
    has no memory left, and what it raised itself.
    """
    what = f"{request.way.tier} ({Path(request.way.path).name})"
    with scratch.folder() as bench:
        asked, answer = bench / "request.json", bench / "answer.json"
        disk.write(asked, serde.text(replace(request, answer=str(answer))).encode())
        gibibytes = limits.gibibytes if request.way.device == "cpu" else math.inf
        with _blamed(request.way):
            run_limited(
                [*worker, str(asked)],
                what=what,
                seconds=limits.seconds,
                gibibytes=gibibytes,
                writes=limits.writes,
                heard=heard,
            )
        try:
            found = serde.decode(Answer, serde.loads(files.read(answer, _LONGEST_ANSWER)))
        except (DeployError, serde.Malformed) as error:
            raise StageFailed(f"{what} gave no answer", "leave it out, or report it") from error
    if found.problem:
        raise _KINDS.get(found.kind, StageFailed)(found.problem, found.remedy)
    return found


@contextmanager
def _blamed(way: Candidate) -> Iterator[None]:
    """Within, a bounded child that is killed is no fault of what it worked on: the machine lacks memory."""
    there = memory.available_bytes()
    try:
        yield
    except ChildDied as error:
        bound = (way.memory_mib or 0) << 20 if way.device == "cpu" else 0
        short = there is not None and there < bound
        if bound and (error.signal == _KILLED or (error.signal == signal.SIGABRT and short)):
            raise NoRoom(f"{error}; where memory runs out, that is the machine's doing", memory.REMEDY) from error
        raise


def probe_in_order(ways: Sequence[Candidate], prober: Prober, *, every: bool = False) -> tuple[ProbeResult, ...]:
    """Tries one way after the other down to the first that works; with `every`, all of them."""
    tried: list[ProbeResult] = []
    for way in ways:
        tried.append(prober(way))
        if tried[-1].passed and not every:
            break
    return tuple(tried)


def first_passed(tried: Sequence[ProbeResult]) -> ProbeResult | None:
    """The way that serves: the first that passed."""
    return next((each for each in tried if each.passed), None)


def tried_before(tried: Sequence[ProbeResult]) -> Sequence[ProbeResult]:
    """The ways that were tried before the one that serves."""
    found = first_passed(tried)
    return tried if found is None else tried[: tried.index(found)]


def shortfall(tried: Sequence[ProbeResult], require: str | None) -> DeployError | None:
    """What is wrong if no way works, or only ways below the one that is required (trt, cuda or cpu).

    Raises BadInput if nothing of that name can be required.
    """
    if require is not None and require not in ACCEPTED_TIERS:
        raise BadInput(f"{str(require)[:40]!r} cannot be required", f"choose from {', '.join(ACCEPTED_TIERS)}")
    found = first_passed(tried)
    if found and (require is None or found.tier in ACCEPTED_TIERS[require]):
        return None
    why = "; ".join(f"{each.tier}: {each.reason}" for each in tried_before(tried))
    if found:
        problem = f"{require} is required, and only {found.tier} works here: {why}"
        return NotVerified(problem, "mend it, or require less")
    if any(each.trial and each.trial.check.broken for each in tried):
        return ParityFailed(f"nothing here computes what the model does: {why}", "pack the bundle again, or report it")
    died = any(each.died for each in tried)
    remedy = f"{files.AGAIN}, or report it" if died else "install onnxruntime, which needs no GPU"
    return NotVerified(f"nothing here runs the model: {why}", remedy)
