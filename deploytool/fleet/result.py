"""The results of a fleet as plain data: what became of each device, and the files that keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploytool import serde
from deploytool.device.state import DeviceState
from deploytool.fleet.actions import Action
from deploytool.host import files
from deploytool.spec import StrEnum

SCHEMA = "deploytool.fleet/1"


class Outcome(StrEnum):
    """What became of a device."""

    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    NOT_STARTED = "not started"


@dataclass(frozen=True)
class StepResult:
    """One command of the device: its words, its exit code, its seconds, and the document that it printed.

    `document` has `result` and `error`; it is None if the command printed none, and `complained` is the end of its
    stderr.
    """

    command: tuple[str, ...]
    code: int
    seconds: float
    document: Mapping[str, Any] | None
    complained: str = ""

    @property
    def result(self) -> Any:
        """The result in the document; None without one."""
        return None if self.document is None else self.document.get("result")


@dataclass(frozen=True)
class DeviceResult:
    """What became of one device, with the digest of the bundle that it is about, empty if it is about none.

    `before` and `after` are the states of the device, None where it was not asked; `reason`, `remedy` and `exit_code`
    are those of the error. `rolled_back` is None where nothing was to be rolled back. `began` and `ended` are seconds
    since 1970 by the clock of the device, 0 if it did no work. `cuts` counts interrupted connections. `tool` is the
    name of the tool of a bundle that ran the commands there, empty for the deploytool of the device's Python.
    """

    schema: str
    device: str
    action: Action
    outcome: Outcome
    digest: str = ""
    reason: str = ""
    remedy: str = ""
    exit_code: int = 0
    steps: tuple[StepResult, ...] = ()
    rolled_back: bool | None = None
    before: DeviceState | None = None
    after: DeviceState | None = None
    began: float = 0.0
    ended: float = 0.0
    cuts: int = 0
    tool: str = ""


@dataclass(frozen=True)
class FleetResult:
    """The results of all devices in their order."""

    action: Action
    digest: str
    devices: tuple[DeviceResult, ...] = field(default_factory=tuple)

    def count(self, outcome: Outcome) -> int:
        """The number of devices with an outcome."""
        return sum(result.outcome is outcome for result in self.devices)


def write(result: DeviceResult, folder: Path) -> Path:
    """Writes a result to `folder/DIGEST/DEVICE.ACTION.json`, and the measurement beside it; returns the first path.

    The measurement is the document of `bench` as the device printed it, which `deploytool report --device` reads.
    """
    path = path_of(result, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.publish(path, serde.text(result).encode())
    if document := measurement(result.steps):
        files.publish(measurement_path(path), serde.text(document).encode())
    return path


def path_of(result: DeviceResult, folder: Path) -> Path:
    """The file of a result."""
    return folder / (result.digest[:12] or "no-bundle") / f"{result.device}.{result.action}.json"


def measurement_path(path: Path) -> Path:
    """The file of the measurement beside that of a result."""
    return path.with_name(f"{path.name.removesuffix('.json')}.measured.json")


def measurement(steps: Sequence[StepResult]) -> Mapping[str, Any] | None:
    """The document of the last step that verified a bundle; None if none did."""
    verified = [step.document for step in steps if isinstance(step.result, dict) and "tried" in step.result]
    return verified[-1] if verified else None
