"""Compares a candidate with the source at every corner that the manifest states: the ends of all dynamic dimensions."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploytool.backends.session import Session
from deploytool.bundle.corners import Corner
from deploytool.bundle.manifest import MAX_MEMORY_MIB, Manifest, read_verified
from deploytool.data import corner_cases
from deploytool.data.corner_cases import CornerCases
from deploytool.data.golden import Arrays, Golden
from deploytool.device import answers
from deploytool.device.candidates import Candidate
from deploytool.errors import OutOfMemory, StageFailed
from deploytool.host import disk, memory
from deploytool.parity import metrics
from deploytool.parity.replay import at_once, replay
from deploytool.results.report import Check, Limits
from deploytool.spec import BATCH, Range, StrEnum

_MEBIBYTE = 1 << 20


class CornerOutcome(StrEnum):
    """What became of a corner: `FAILED` did not run there, and `SKIPPED` was not tried."""

    HELD = "held"
    WRONG = "wrong"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class CornerResult:
    """A corner by its name, what became of it, the check if there is one, and why it failed or was skipped."""

    corner: str
    outcome: CornerOutcome
    check: Check | None = None
    reason: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether the model is wrong or does not run there."""
        return self.outcome in (CornerOutcome.WRONG, CornerOutcome.FAILED)


@dataclass(frozen=True)
class _Expected:
    """Inputs and answers of a corner; the check holds if it does by one of the tolerances."""

    inputs: Arrays
    answers: Arrays
    against: str
    tolerances: tuple[Limits, ...]
    ties: Arrays

    def repeated(self, cases: int) -> _Expected:
        """The same with the cases repeated up to that number; all of them if there are more."""
        have = len(next(iter(self.inputs.values())))
        rows = np.arange(max(cases, have)) % have
        inputs, expected = ({name: array[rows] for name, array in each.items()} for each in (self.inputs, self.answers))
        ties = {name: ends[:, rows] for name, ends in self.ties.items()}
        return _Expected(inputs, expected, self.against, self.tolerances, ties)


def memory_mib(manifest: Manifest, candidate: Candidate) -> int:
    """The memory that the corners need on a CPU that are tried there; 0 if the golden cases need as much."""
    tried = (each for each in manifest.corners if skip_reason(each, manifest, candidate) is None)
    return max((each.memory_mib or 0 for each in tried), default=0)


def skip_reason(corner: Corner, manifest: Manifest, candidate: Candidate) -> str | None:
    """Why a corner is not tried here; None if it is. On a CPU large batches need known and available memory."""
    if candidate.device != "cpu" or corner.batch <= at_once(manifest.golden.cases, manifest.free[BATCH]):
        return None
    if corner.memory_mib is None:
        return f"it needs more than {MAX_MEMORY_MIB} MiB of memory on a CPU, or an unknown amount"
    needed, available = corner.memory_mib * _MEBIBYTE, memory.available_bytes()
    if available is None or available >= needed:
        return None
    return f"it may take {disk.size(needed)} of memory, and {disk.size(available)} are available"


def compare(
    session: Session, folder: Path, manifest: Manifest, candidate: Candidate, sample: Golden
) -> Iterator[CornerResult]:
    """The result of each corner of the bundle in a folder; `sample` are its golden cases."""
    read: dict[str, CornerCases] = {}
    for corner in manifest.corners:
        if corner.cases and corner.cases not in read:
            read = {corner.cases: _read(folder, manifest, corner.cases)}  # those of one size at a time
        expected = _expected(corner, folder, manifest, candidate, sample, read)
        reason = skip_reason(corner, manifest, candidate)
        if expected is None:
            reason = f"the bundle has no answers in {candidate.precision.upper()} there"
        if expected is None or reason is not None:
            yield CornerResult(corner.name, CornerOutcome.SKIPPED, reason=reason or "")
            continue
        yield _compare(session, corner, expected.repeated(corner.batch), candidate)


def _compare(session: Session, corner: Corner, expected: _Expected, candidate: Candidate) -> CornerResult:
    try:
        got = replay(session, expected.inputs, Range(corner.batch, corner.batch, corner.batch))
        check = metrics.check_by_any(got, expected.answers, expected.against, expected.tolerances, expected.ties)
    except StageFailed as error:
        if isinstance(error, OutOfMemory) and candidate.device == "cpu":
            raise  # the limit on this process decides whose fault that is
        return CornerResult(corner.name, CornerOutcome.FAILED, reason=str(error))
    except (ValueError, KeyError) as error:
        return CornerResult(corner.name, CornerOutcome.FAILED, reason=f"its outputs are others: {error}")
    return CornerResult(corner.name, CornerOutcome.WRONG if check.broken else CornerOutcome.HELD, check)


def _read(folder: Path, manifest: Manifest, path: str) -> CornerCases:
    return corner_cases.parse(io.BytesIO(read_verified(folder, manifest, path)), folder / path)


def _expected(
    corner: Corner,
    folder: Path,
    manifest: Manifest,
    candidate: Candidate,
    sample: Golden,
    read: Mapping[str, CornerCases],
) -> _Expected | None:
    """What a candidate is compared with at a corner; None if the bundle has no answers in its precision."""
    precision = candidate.precision
    inputs = read[corner.cases].inputs(manifest.inputs, manifest.preprocessing) if corner.cases else sample.inputs
    if candidate.answers:
        found = _quantised_answers(corner, manifest, candidate)
        if found is None:
            return None
        path, tolerances = found
        return _Expected(inputs, answers.read_quantised(folder, manifest, path), answers.AS_QUANTISED, tolerances, {})
    if corner.cases:
        local = [corner.limits[precision]] if precision in corner.limits else []
        tolerances = (manifest.tolerances[precision], *local)
        return _Expected(inputs, read[corner.cases].answers, "the source", tolerances, {})
    tolerances = (manifest.tolerances[precision],)
    return _Expected(inputs, sample.reference, "FP64", tolerances, sample.ties(precision))


def _quantised_answers(
    corner: Corner, manifest: Manifest, candidate: Candidate
) -> tuple[str, tuple[Limits, ...]] | None:
    """The file of a candidate's answers in 8 bits at a corner, if there is one, and how far kernels may be from it."""
    graph = next(each for each in manifest.int8 if each.answers == candidate.answers)
    if not corner.cases:
        return graph.answers, (graph.limits,)
    found = (each for each in graph.corners if each.cases == corner.cases)
    return next(((each.answers, (graph.limits, each.limits)) for each in found), None)


def failure(results: Sequence[CornerResult]) -> CornerResult | None:
    """The first corner that is wrong or does not run."""
    return next((result for result in results if result.is_failure), None)
