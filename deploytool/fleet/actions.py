"""The actions of a fleet; imports nothing heavy, so that the command line can list them."""

from __future__ import annotations

from deploytool.spec import StrEnum


class Action(StrEnum):
    """What is done on every device."""

    STATUS = "status"
    DOCTOR = "doctor"
    DEPLOY = "deploy"
    VERIFY = "verify"
    BUILD = "build"
    BENCH = "bench"
    ROLLBACK = "rollback"


PROVING = (Action.DEPLOY, Action.VERIFY, Action.BENCH)  # those that run the golden cases and report on them
