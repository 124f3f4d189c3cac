"""The text output of the device commands, as plain lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from deploytool.bundle.subset import Subset
from deploytool.data import drawing
from deploytool.device import build
from deploytool.device.build import Record
from deploytool.device.candidates import CPU_TIERS
from deploytool.device.corners import CornerOutcome
from deploytool.device.findings import Areas, Findings, Guess, Objects
from deploytool.device.install import Pointer
from deploytool.device.probe import Int8Speed, ProbeResult, Race
from deploytool.device.verify import Verification
from deploytool.device.worker import Trial
from deploytool.host import disk
from deploytool.results import verdict
from deploytool.spec import Precision
from deploytool.transfer.pull import PullResult

_NARROW = (Precision.INT8, Precision.FP8, Precision.BF16)


def verification_lines(verification: Verification, *, every: bool) -> Iterator[str]:
    """The integrity checks, the result of each candidate, and the tier that works."""
    digest = verification.digest[:12]
    yield f"{verification.bundle}: {verification.name}, sequence {verification.sequence}, digest {digest}"
    yield from (f"  {step.name:<14}{step.status}" for step in verification.steps)
    width = max((len(result.name) + 2 for result in verification.tried), default=0)
    yield from (f"  {result.name:<{max(width, 14)}}{_result_text(result)}" for result in verification.tried)
    if verification.race:
        yield f"  {_race_text(verification.race)}"
    yield from (f"  {int8_text(speed)}" for speed in verification.int8_speeds)
    if verification.tier is None:
        yield "Nothing here runs this model."
    elif every and not verification.race:
        yield f"The first that works here serves: {verification.tier}{_in_precision(verification)}."
    else:
        yield f"It works here: {verification.tier} serves{_in_precision(verification)}."


def _in_precision(verification: Verification) -> str:
    """The precision of what serves if it is a narrow one, or why one before it in its tier does not serve."""
    tried = [result for result in verification.tried if result.tier is verification.tier]
    before = [*takewhile(lambda result: not result.passed, tried)]
    serving = next((result for result in tried if result.passed), None)
    if serving is not None and serving.computes_in in _NARROW:
        return f" in {serving.computes_in.upper()}"
    failed = next((result for result in before if result.computes_in in _NARROW and result.reason), None)
    if failed is None or failed.computes_in is None:
        return ""
    wide = Precision.FP32 if failed.tier in CPU_TIERS else Precision.FP16
    return f" in {wide.upper()}, because {failed.computes_in.upper()} does not: {failed.reason}"


def _race_text(race: Race) -> str:
    """The comparison of two runtimes on the CPU, with the reason for the one that serves."""
    if race.speedup is None:
        return f"{race.first} and {race.second} were not compared, so {race.serves} serves: {race.reason}"
    speedup = f"{race.speedup.value:.2f}× ({race.speedup.low:.2f}–{race.speedup.high:.2f})"
    than = "" if race.serves is race.second else ", not significantly faster"
    return f"{race.second} has {speedup} the speed of {race.first} at batch {race.batch}, timed in turn{than}"


def int8_text(speed: Int8Speed) -> str:
    """How fast INT8 is beside FP32 in one runtime, or that it brings no gain."""
    if speed.speedup is None:
        return f"{speed.tier} INT8 and FP32 were not compared: {speed.reason}"
    interval = f"{speed.speedup.value:.2f}× ({speed.speedup.low:.2f}–{speed.speedup.high:.2f})"
    no_gain = "" if speed.is_gain else ": no gain"
    return f"{speed.tier} INT8 has {interval} the speed of FP32 at batch {speed.batch}, timed in turn{no_gain}"


def _result_text(result: ProbeResult) -> str:
    return _trial_text(result.trial) if result.passed and result.trial else f"skipped: {result.reason}"


def _trial_text(trial: Trial) -> str:
    parity = trial.check.parity
    speed = f"{trial.latency_ms:.2f} ms at batch {trial.batch} (90 %: {trial.p90_ms:.2f} ms, {trial.rounds} rounds)"
    top1 = "" if parity.top1 is None else f", top-1 {parity.top1:.0%}"
    equal = f", {verdict.describe_equality(parity.equal)}" if parity.equal else ""
    energy = "" if trial.energy_mj is None else f", {trial.energy_mj:.3g} mJ of {trial.power_source}"
    return f"works: error {parity.max_error:.1e}{top1}{equal}{_corners_text(trial)}; {speed}{energy}"


def _corners_text(trial: Trial) -> str:
    """How many corners hold, and why others were skipped; nothing if there are none."""
    skipped = [each for each in trial.corners if each.outcome is CornerOutcome.SKIPPED]
    held, total = len(trial.corners) - len(skipped), len(trial.corners)
    if not skipped:
        return f", {total} corners hold" if total else ""
    reasons = {each.reason: each.corner for each in reversed(skipped)}
    texts = [f"{corner}: {reason}" for reason, corner in reversed(reasons.items())]
    return f", {held} of {total} corners hold, {len(skipped)} skipped ({'; '.join(texts)})"


def build_lines(record: Record, folder: Path) -> Iterator[str]:
    """The engine that was built into `folder`, and its trial."""
    yield f"{folder / record.file.path}: {record.flavour} {record.version} for {record.gpu} ({record.capability})"
    if record.trial:
        yield f"  {_trial_text(record.trial)}"
    if record.precision is not Precision.FP16:
        yield f"  {_gain_text(record)}"


def _gain_text(record: Record) -> str:
    """The speed of an engine in 8 bits beside the FP16 engine, and which of them serves."""
    name = record.precision.upper()
    if record.gain is None:
        return f"{name} and FP16 were not compared, so FP16 serves"
    gain = f"{record.gain.value:.2f}× ({record.gain.low:.2f}–{record.gain.high:.2f})"
    serves = "it serves" if build.is_faster(record) else "no gain, FP16 serves"
    return f"{name} has {gain} the speed of FP16, timed in turn: {serves}"


def run_lines(name: str, found: Findings) -> Iterator[str]:
    """What ran the model, and what was found in each image."""
    yield f"by {name}"
    for guess in found.guesses:
        yield f"{guess.picture}: {_guess_text(guess)}"
    for objects in found.objects:
        yield from _objects_lines(objects)
    for areas in found.areas:
        yield from _areas_lines(areas)
    for sequence in found.sequences:
        labels = (name or str(token) for token, name in zip(sequence.tokens, sequence.names, strict=True))
        yield f"{sequence.picture}: {' '.join(labels)}"
    for embedding in found.embeddings:
        yield f"{embedding.picture}: {embedding.output} is {_shape(embedding.shape)}, norm {embedding.norm:.6g}"


def _objects_lines(found: Objects) -> Iterator[str]:
    """The boxes of one picture in its pixels, x before y."""
    count = f"{len(found.boxes)} object{'' if len(found.boxes) == 1 else 's'}"
    below = f", {found.below} more below the lowest score" if found.below else ""
    yield f"{found.picture}: {count} in {_shape(found.size)} pixels{below}"
    for box in found.boxes:
        left, top, right, bottom = box.corners
        corners = f"{left:.1f}, {top:.1f} to {right:.1f}, {bottom:.1f}"
        yield f"  {_label(box.index, box.name)} ({box.score:.4g}): {corners}"
    yield from [f"  drawn in {found.drawing}"] if found.drawing else []


def _areas_lines(found: Areas) -> Iterator[str]:
    """The share of each class in the pixels of one picture."""
    cut = f", of which the model saw {found.seen:.1%}" if found.seen < 1 else ""
    yield f"{found.picture}: {found.output} of {_shape(found.size)} pixels{cut}"
    for share in found.shares:
        tint = f", drawn as #{bytes(drawing.colour(share.index)).hex()}" if found.drawing else ""
        yield f"  {_label(share.index, share.name)}: {share.share:.2%}{tint}"
    yield from [f"  drawn in {found.drawing}"] if found.drawing else []


def _label(index: int, name: str) -> str:
    return f"{index} {name}" if name else str(index)


def _shape(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes))


def _guess_text(guess: Guess) -> str:
    if not guess.classes:
        return f"{guess.output} is {_shape(guess.shape)}, from {guess.smallest:.4g} to {guess.largest:.4g}"
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
