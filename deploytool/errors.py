"""Every way to fail, in one place: the problem, the remedy, and the exit code a script can rely on.

    DeployError
    ├── Unforeseen          1   an error that nobody foresaw, of ours or of a library: --verbose shows the trace
    ├── BadInput            2   what was asked for does not exist or makes no sense
    ├── ParityFailed        3   an artifact computes something else than its source
    ├── TooSlow             4   the speed-up that was asked for was measured and not reached
    ├── MissingBackend      5   a library this machine lacks, or two that break each other
    ├── NotVerified         6   asked to be verified, and this machine cannot verify it
    ├── StageFailed         7   a tool refused the model: exporter, simplifier, converter or builder
    ├── Refused             8   a bundle that must not be used: other bytes than its manifest names, or too old
    ├── Unreachable         9   a registry, server or device that does not answer or breaks off: try again, it goes on
    └── OverBudget         10   a figure went further than a `--fail-if` of `deploytool diff` allows

An interruption (Ctrl-C) ends with 130, as everywhere.
"""


class DeployError(Exception):
    """A failure with a remedy; `str()` is the problem, `exit_code` is what the process ends with."""

    exit_code = 1

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


class Unforeseen(DeployError):
    """Whatever else was raised, by a library or by ourselves; what it was raised from is its cause."""


class BadInput(DeployError):
    """What was asked for does not exist or makes no sense."""

    exit_code = 2


class NoRoom(BadInput):
    """The disk or the memory of this machine, or a limit on them, is too small for what was asked for."""


class ParityFailed(DeployError):
    """An artifact computes something else than the artifact or the model it was made from."""

    exit_code = 3


class TooSlow(DeployError):
    """The speed-up that was asked for was measured and not reached."""

    exit_code = 4


class MissingBackend(DeployError):
    """A library or device that this machine lacks, or two libraries that break each other."""

    exit_code = 5


class NotVerified(DeployError):
    """Verification was required, and this machine cannot give it."""

    exit_code = 6


class StageFailed(DeployError):
    """A tool refused the model: exporter, simplifier, converter or builder."""

    exit_code = 7


class ChildFailed(StageFailed):
    """A child process that ended with a status of its own choice; `said` is the last line of its complaint."""

    def __init__(self, problem: str, remedy: str, said: str) -> None:
        super().__init__(problem, remedy)
        self.said = said


class ChildDied(StageFailed):
    """A child process that crashed, hung or ran out of its memory: what it worked on is to blame.

    `signal` is what killed it, 0 if none did.
    """

    def __init__(self, problem: str, remedy: str, signal: int = 0) -> None:
        super().__init__(problem, remedy)
        self.signal = signal


class OutOfMemory(StageFailed):
    """A library could not have the memory that it asked for: somebody's limit, or no more there."""


class Refused(DeployError):
    """A bundle that must not be used: its bytes are not those its manifest names, or it is older than what runs."""

    exit_code = 8


class Spoiled(Refused):
    """A bundle whose own bytes are not those that its manifest names."""


class Unreachable(DeployError):
    """A registry, server or device that does not answer or breaks off; what has come is kept for the next try."""

    exit_code = 9


class OverBudget(DeployError):
    """A figure went further from one run or bundle to the other than a budget allows."""

    exit_code = 10
