"""What the device's commands say to people, in plain lines that need no terminal and no library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from deploytool.bundle.subset import Subset
from deploytool.device.build import Record
from deploytool.device.install import Pointer
from deploytool.device.probe import ProbeResult
from deploytool.device.verify import Verification
from deploytool.device.worker import Guess, Trial
from deploytool.host import disk
from deploytool.results import verdict
from deploytool.transfer.pull import PullResult


def verified(found: Verification, *, every: bool) -> Iterator[str]:
    """The papers, what became of each way, and what serves."""
    yield f"{found.bundle}: {found.name}, sequence {found.sequence}, digest {found.digest[:12]}"
    yield from (f"  {step.name:<14}{step.status}" for step in found.steps)
    yield from (f"  {each.tier:<14}{_told(each)}" for each in found.tried)
    if found.tier is None:
        yield "Nothing here runs this model."
    elif every:
        yield f"The first that works here serves: {found.tier}."
    else:
        yield f"It works here: {found.tier} serves."


def _told(each: ProbeResult) -> str:
    return _works(each.trial) if each.passed and each.trial else f"skipped: {each.reason}"


def _works(trial: Trial) -> str:
    parity = trial.check.parity
    speed = f"{trial.latency_ms:.2f} ms at batch {trial.batch} (90 %: {trial.p90_ms:.2f} ms, {trial.rounds} rounds)"
    top1 = "" if parity.top1 is None else f", top-1 {parity.top1:.0%}"
    equal = f", {verdict.describe_equality(parity.equal)}" if parity.equal else ""
    return f"works: error {parity.max_error:.1e}{top1}{equal}; {speed}"


def built(record: Record, place: Path) -> Iterator[str]:
    """What was built, and what it showed."""
    yield f"{place / record.file.path}: {record.flavour} {record.version} for {record.gpu} ({record.capability})"
    if record.trial:
        yield f"  {_works(record.trial)}"


def ran(tier: str, guesses: Sequence[Guess]) -> Iterator[str]:
    """What the model says of each picture."""
    yield f"by {tier}"
    for guess in guesses:
        yield f"{guess.picture}: {_guessed(guess)}"


def _guessed(guess: Guess) -> str:
    if not guess.classes:
        shape = " × ".join(map(str, guess.shape))
        return f"{guess.output} is {shape}, from {guess.smallest:.4g} to {guess.largest:.4g}"
    called = [f"{place} {name}" for place, name in zip(guess.classes, guess.names, strict=True)] if guess.names else []
    pairs = zip(called or map(str, guess.classes), guess.scores, strict=True)
    return f"{guess.output} " + ", ".join(f"{what} ({score:.4g})" for what, score in pairs)


def pointer(turned: Pointer, root: Path) -> Iterator[str]:
    """What runs now, and what one can go back to."""
    yield f"{root}: current {turned.current[:12]}, previous {(turned.previous or 'none')[:12]}"
    yield f"  a sequence below {turned.sequence} is refused"
    yield from (f"  {digest[:12]} is refused: {why}" for digest, why in turned.refused.items())


def landed(found: PullResult, kind: Subset | None, key: Path | None) -> Iterator[str]:
    """What was fetched, by whose key if one was asked for, and what next."""
    left = f", {found.left_out} engines for other devices than {kind.target} left out" if kind else ""
    identity = f"{found.name}, sequence {found.sequence}, digest {found.digest[:12]}"
    yield f"{found.folder}: {identity}, {found.files} files{left}"
    yield f"  {disk.size(found.fetched)} fetched, {disk.size(found.here)} were here; every byte verified"
    yield from [f"  signed, by {key}"] if key else []
    again = f" --require-signature {key}" if key else ""
    yield f"Next: python -m deploytool.device verify {found.folder}{again}"


def progress(done: int, total: int, seconds: float) -> str:
    """How far a build is; what is left is as long as what is done, step by step."""
    left = seconds / done * (total - done) if done else 0.0
    return f"building: step {done} of {total} after {seconds:.0f} s" + (f", about {left:.0f} s to go" if left else "")
