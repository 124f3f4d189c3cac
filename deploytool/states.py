"""The states that decide: stages, statuses, precisions and verdicts, each with the one word it has in files.

A decision reads a member of these enums. Why a state is what it is stands in a field beside it, for people alone.
"""

from __future__ import annotations

from enum import Enum


class Word(str, Enum):
    """A member that is written, in files and in sentences, as its value."""

    def __str__(self) -> str:
        return str(self.value)


class Stage(Word):
    """A stage of the pipeline; the value names its folder in a run and its module in `deploytool.stages`."""

    LOAD = "instantiate"
    GOLDEN = "record"
    TORCHSCRIPT = "script"
    EXPORT = "translate"
    SIMPLIFY = "simplify"
    REWRITE = "rewrite"
    FP16 = "halve"
    KNOWN_ISSUES = "lint"
    BUILD = "build"
    FAULTS = "prove"
    VALIDATE = "validate"
    PACK = "pack"

    @property
    def precision(self) -> Precision:
        """What the artifacts of the stage compute in."""
        return Precision.FP16 if self in (Stage.FP16, Stage.BUILD) else Precision.FP32


class Precision(Word):
    """A floating-point type that an artifact computes in, or takes and gives."""

    FP32 = "fp32"
    FP16 = "fp16"


class Status(Word):
    """What became of an artifact on a machine."""

    MEASURED = "measured"
    BUILT_NOT_RUN = "built, not run"
    UNAVAILABLE = "unavailable"


class Attempt(Word):
    """What became of one way to run a bundle on a device."""

    MEASURED = "measured"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


class SpeedVerdict(Word):
    """What may be said of two latencies; on an uneven machine, nothing."""

    FASTER = "faster"
    SLOWER = "slower"
    NEITHER = "no significant difference"
    NO_VERDICT = "no verdict"


class GateOutcome(Word):
    """What became of a speed-up that was asked for; open is what nothing here can tell."""

    REACHED = "reached"
    MISSED = "missed"
    OPEN = "open"


class Verdict(Word):
    """What a run comes to."""

    PASS = "pass"
    PASS_HERE = "pass for all that ran here"
    FAIL = "FAIL"
    SLOW = "too slow"
    UNPROVEN = "not proven"


class TargetPlan(Word):
    """Where the engine of a target is built."""

    HERE = "built here"
    ON_DEVICE = "build on the device"
    NOT_SERVED = "not served"


def spoken(state: Enum, reason: str = "") -> str:
    """A state as people read it: its word, and the reason in brackets where there is one."""
    return f"{state.value} ({reason})" if reason else str(state.value)
