"""Prints the results of a fleet, keeps them as files, and adds them to the page of a run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from deploytool import serde
from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome as CommandOutcome
from deploytool.device.probe import ProbeResult
from deploytool.device.state import DeviceState
from deploytool.device.verify import Verification
from deploytool.doctor import messages as doctor_messages
from deploytool.doctor.diagnosis import Diagnosis
from deploytool.errors import DeployError, StageFailed
from deploytool.fleet import result as results
from deploytool.fleet.actions import Action
from deploytool.fleet.result import DeviceResult, FleetResult, Outcome

_NONE = "–"
_SEVERITY = (3, 4, 8, 6, 7, 5, 2, 1, 9)  # exit codes, the worst first: a command has that of its worst device
_ERRORS: Mapping[int, type[DeployError]] = {kind.exit_code: kind for kind in DeployError.__subclasses__()}


def keeper(folder: Path) -> Callable[[DeviceResult], None]:
    """A function that writes the result of a device at once; it may be called from several threads."""
    lock = threading.Lock()

    def keep(result: DeviceResult) -> None:
        with lock:
            results.write(result, folder)

    return keep


def outcome(made: FleetResult, folder: Path, run: Path | None) -> CommandOutcome:
    """Prints the results, and returns the document with the failure of the worst device if not all are done."""
    console = cli_console.stdout_console()
    if made.action is Action.STATUS:
        columns = ("device", "~is", "deploytool", "current", "previous", "~clocks and power", "~reason")
        cli_console.table(console, "Devices", columns, [_status_row(result) for result in made.devices])
    elif made.action is Action.DOCTOR:
        for line in _doctor_lines(made):
            cli_console.say(console, line)
    else:
        figures = ("device", "outcome", "bundle", "backend", ">p50 ms", ">mJ", "current", "~reason")
        cli_console.table(console, f"fleet {made.action}", figures, [_row(result) for result in made.devices])
        cli_console.say(console, f"Results: {folder}")
    page = _add_to_page(made, folder, run) if run else None
    verdict = _verdict(made)
    cli_console.say(console, verdict)
    document = {"fleet": made, "folder": str(folder), "page": str(page) if page else None}
    return CommandOutcome(document, verdict, _failure(made))


def _verdict(made: FleetResult) -> str:
    """How many devices are done, and how many are in each other state."""
    others = [f"{made.count(each)} {each}" for each in Outcome if each is not Outcome.DONE and made.count(each)]
    return ", ".join([f"{made.count(Outcome.DONE)} of {len(made.devices)} devices done", *others])


def _failure(made: FleetResult) -> DeployError | None:
    """The error with the exit code of the worst device; None if all are done."""
    bad = [result for result in made.devices if result.outcome is not Outcome.DONE]
    if not bad:
        return None
    codes = [code for code in _SEVERITY if any(result.exit_code == code for result in bad)]
    worst = next((result for result in bad if codes and result.exit_code == codes[0]), bad[0])
    problem = f"{len(bad)} of {len(made.devices)} devices are not done, such as {worst.device}: {worst.reason}"
    return _ERRORS.get(worst.exit_code, StageFailed)(problem, worst.remedy or "see the table above")


def _status_row(result: DeviceResult) -> tuple[str, ...]:
    state = result.before
    if state is None:
        return (result.device, *[_NONE] * 5, result.reason)
    power = "; ".join(f"{name}: {reading}" for name, reading in state.power.readings.items())
    return (result.device, _machine(state), _deploytool(result, state), *_pointer(state), power or _NONE, result.reason)


def _deploytool(result: DeviceResult, state: DeviceState) -> str:
    """The version of the deploytool that answered, and whether it is that of a bundle or of the device's Python."""
    return f"{state.deploytool} {f'of a bundle: {result.tool[:12]}' if result.tool else 'of its Python'}"


def _machine(state: DeviceState) -> str:
    """What matters of a device to a bundle, in a few words."""
    here = state.environment
    words = [f"JetPack {state.jetpack.jetpack}"] if state.jetpack else [f"{here.system} {here.processor}"]
    words += [f"{here.gpu} {here.capability}"] if here.capability else []
    words += [f"{name} {version}" for name, version in (here.tensorrt or {}).items()]
    words += [f"onnxruntime {here.onnxruntime}"] if here.onnxruntime else []
    return ", ".join(words)


def _pointer(state: DeviceState | None) -> tuple[str, str]:
    """The first digits of the current and the previous bundle."""
    if state is None or state.pointer is None:
        return (_NONE, _NONE)
    return (state.pointer.current[:12], (state.pointer.previous or _NONE)[:12])


def _row(result: DeviceResult) -> tuple[str, ...]:
    serving = _serving(result)
    latency = f"{serving.trial.latency_ms:.2f}" if serving and serving.trial else _NONE
    energy = serving.trial.energy_mj if serving and serving.trial else None
    backend = str(serving.tier) if serving else _NONE
    current, _ = _pointer(result.after or result.before)
    return (
        *(result.device, str(result.outcome), result.digest[:12] or _NONE, backend, latency),
        _NONE if energy is None else f"{energy:.3g}",
        current,
        f"{result.reason}{_rollback_text(result)}",
    )


def _rollback_text(result: DeviceResult) -> str:
    if result.rolled_back is None:
        return ""
    return "; it was rolled back" if result.rolled_back else "; the rollback failed"


def _serving(result: DeviceResult) -> ProbeResult | None:
    """The backend that serves on a device, with its figures; None if the device sent no measurement."""
    document = results.measurement(result.steps)
    try:
        verified = serde.decode(Verification, document["result"]) if document else None
    except serde.Malformed:
        return None  # another version of deploytool
    return next((tried for tried in verified.tried if tried.passed), None) if verified else None


def _doctor_lines(made: FleetResult) -> Iterator[str]:
    """The diagnosis of each device below its name."""
    for result in made.devices:
        yield f"{result.device}: {result.outcome}{f': {result.reason}' if result.reason else ''}"
        if result.before:
            yield f"  deploytool {_deploytool(result, result.before)}"
        for done in result.steps:
            if diagnosis := _diagnosis(done.result):
                yield from (f"  {line}" for line in doctor_messages.lines(diagnosis))


def _diagnosis(document: object) -> Diagnosis | None:
    try:
        return serde.decode(Diagnosis, document)
    except serde.Malformed:
        return None  # none could be made, or another version of deploytool made it


def _add_to_page(made: FleetResult, folder: Path, run: Path) -> Path:
    """Stores the measurements beside a run and draws its page again; raises BadInput if they are of another bundle."""
    from deploytool.report import device_results, sources, update  # imports matplotlib
    from deploytool.results import report as reports

    for result in made.devices:
        if results.measurement(result.steps) is not None:
            device_results.store(run, results.measurement_path(results.path_of(result, folder)), result.device)
    return update.refresh(reports.read(sources.find(run)), run)
