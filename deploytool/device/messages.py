"""The text output of the device commands, as plain lines."""

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


def verification_lines(verification: Verification, *, every: bool) -> Iterator[str]:
    """The integrity checks, the result of each candidate, and the tier that works."""
    digest = verification.digest[:12]
    yield f"{verification.bundle}: {verification.name}, sequence {verification.sequence}, digest {digest}"
    yield from (f"  {step.name:<14}{step.status}" for step in verification.steps)
    yield from (f"  {result.tier:<14}{_result_text(result)}" for result in verification.tried)
    if verification.tier is None:
        yield "Nothing here runs this model."
    elif every:
        yield f"The first that works here serves: {verification.tier}."
    else:
        yield f"It works here: {verification.tier} serves."


def _result_text(result: ProbeResult) -> str:
    return _trial_text(result.trial) if result.passed and result.trial else f"skipped: {result.reason}"


def _trial_text(trial: Trial) -> str:
    parity = trial.check.parity
    speed = f"{trial.latency_ms:.2f} ms at batch {trial.batch} (90 %: {trial.p90_ms:.2f} ms, {trial.rounds} rounds)"
    top1 = "" if parity.top1 is None else f", top-1 {parity.top1:.0%}"
    equal = f", {verdict.describe_equality(parity.equal)}" if parity.equal else ""
    return f"works: error {parity.max_error:.1e}{top1}{equal}; {speed}"


def build_lines(record: Record, folder: Path) -> Iterator[str]:
    """The engine that was built into `folder`, and its trial."""
    yield f"{folder / record.file.path}: {record.flavour} {record.version} for {record.gpu} ({record.capability})"
    if record.trial:
        yield f"  {_trial_text(record.trial)}"


def run_lines(tier: str, guesses: Sequence[Guess]) -> Iterator[str]:
    """The outputs for each image."""
    yield f"by {tier}"
    for guess in guesses:
        yield f"{guess.picture}: {_guess_text(guess)}"


def _guess_text(guess: Guess) -> str:
    if not guess.classes:
        shape = " × ".join(map(str, guess.shape))
        return f"{guess.output} is {shape}, from {guess.smallest:.4g} to {guess.largest:.4g}"
    pairs = zip(guess.classes, guess.names, strict=True) if guess.names else ()
    labels = [f"{index} {name}" for index, name in pairs] or map(str, guess.classes)
    scored = zip(labels, guess.scores, strict=True)
    return f"{guess.output} " + ", ".join(f"{label} ({score:.4g})" for label, score in scored)


def pointer_lines(pointer: Pointer, root: Path) -> Iterator[str]:
    """The current, the previous and the refused bundles."""
    yield f"{root}: current {pointer.current[:12]}, previous {(pointer.previous or 'none')[:12]}"
    yield f"  a sequence below {pointer.sequence} is refused"
    yield from (f"  {digest[:12]} is refused: {reason}" for digest, reason in pointer.refused.items())


def pull_lines(result: PullResult, kind: Subset | None, key: Path | None) -> Iterator[str]:
    """What was fetched, the key that signed it if one was required, and the next command."""
    omitted = f", {result.left_out} engines for other devices than {kind.target} left out" if kind else ""
    identity = f"{result.name}, sequence {result.sequence}, digest {result.digest[:12]}"
    yield f"{result.folder}: {identity}, {result.files} files{omitted}"
    yield f"  {disk.size(result.fetched)} fetched, {disk.size(result.here)} were here; every byte verified"
    yield from [f"  signed, by {key}"] if key else []
    signature_option = f" --require-signature {key}" if key else ""
    yield f"Next: python -m deploytool.device verify {result.folder}{signature_option}"


def progress_line(done: int, total: int, seconds: float) -> str:
    """The progress of a build after some seconds; the time left assumes that all steps take equally long."""
    left = seconds / done * (total - done) if done else 0.0
    return f"building: step {done} of {total} after {seconds:.0f} s" + (f", about {left:.0f} s to go" if left else "")
