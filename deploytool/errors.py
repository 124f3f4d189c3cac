"""The errors that deploytool raises: each has a problem, a remedy, and an exit code for scripts.

    DeployError
    ├── UnexpectedError     1   an error of deploytool itself or of a library; --verbose shows the trace
    ├── BadInput            2   an argument or input does not exist or is invalid
    ├── ParityFailed        3   the results of an artifact deviate from those of its source
    ├── TooSlow             4   the required speed-up was measured and missed
    ├── MissingBackend      5   a library or device is missing, or two libraries are incompatible
    ├── NotVerified         6   verification is required, and this machine cannot perform it
    ├── StageFailed         7   a tool failed on the model: exporter, simplifier, converter or builder
    ├── Refused             8   a bundle must not be used: its bytes differ from the manifest, or it is too old
    ├── Unreachable         9   a registry, server or device does not answer or disconnects; a retry resumes
    └── OverBudget         10   a figure exceeds what a `--fail-if` of `deploytool diff` allows

Ctrl-C ends a command with 130, as a shell expects.
"""


class DeployError(Exception):
    """An error with a remedy; `str()` gives the problem, `exit_code` is the exit code of the process."""

    exit_code = 1

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


class UnexpectedError(DeployError):
    """Any other exception, of a library or of deploytool itself; its `__cause__` is that exception."""


class BadInput(DeployError):
    """An argument or input does not exist or is invalid."""

    exit_code = 2


class ResourceExhausted(BadInput):
    """The disk or memory of this machine, or a limit on them, is too small for the command."""


class ParityFailed(DeployError):
    """The results of an artifact deviate from those of the artifact or model that it was made from."""

    exit_code = 3


class TooSlow(DeployError):
    """The required speed-up was measured and missed."""

    exit_code = 4


class MissingBackend(DeployError):
    """A library or device is missing on this machine, or two libraries are incompatible."""

    exit_code = 5


class NotVerified(DeployError):
    """Verification is required, and this machine cannot perform it."""

    exit_code = 6


class StageFailed(DeployError):
    """A tool failed on the model: exporter, simplifier, converter or builder."""

    exit_code = 7


class ChildFailed(StageFailed):
    """A child process ended with a non-zero exit code; `last_line` is the last line of its stderr."""

    def __init__(self, problem: str, remedy: str, last_line: str) -> None:
        super().__init__(problem, remedy)
        self.last_line = last_line


class ChildDied(StageFailed):
    """A child process crashed, hung or exceeded its memory limit, because of its input.

    `signal` is the signal that killed it, 0 if none did.
    """

    def __init__(self, problem: str, remedy: str, signal: int = 0) -> None:
        super().__init__(problem, remedy)
        self.signal = signal


class OutOfMemory(StageFailed):
    """A library could not allocate memory: a limit was reached, or no memory is left."""


class Refused(DeployError):
    """A bundle must not be used: its bytes differ from its manifest, or it is older than the installed one."""

    exit_code = 8


class CorruptBundle(Refused):
    """The files of a bundle differ from its manifest."""


class DeviceBusy(Refused):
    """Another process sends to the same root of a device; a later attempt may find it free."""


class Unreachable(DeployError):
    """A registry, server or device does not answer or disconnects; a retry resumes the transfer."""

    exit_code = 9


class OverBudget(DeployError):
    """A figure differs more between two runs or bundles than a budget allows."""

    exit_code = 10
