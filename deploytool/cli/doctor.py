"""`deploytool doctor`: shows the capabilities and the known traps of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.cli.device import parameter
from deploytool.device import arguments
from deploytool.doctor import diagnosis as doctor_diagnosis
from deploytool.doctor import messages


def doctor(
    target: Annotated[str, parameter(arguments.BUILD_TARGET)] = "",
    bundle: Annotated[Path | None, parameter(arguments.READ_BUNDLE)] = None,
) -> Outcome:
    """Shows what this machine can build, run and verify, and known traps with their remedies; changes nothing.

    Exit code 0 if an engine for --target can be built here (without --target: if a bundle can be run here), else 5.
    Examples: deploytool doctor · deploytool doctor --target rtx40
    """
    of_bundle = [_bundle_line(bundle)] if bundle else []
    diagnosis = doctor_diagnosis.examine(target)
    console = cli_console.stdout_console()
    for line in (*messages.lines(diagnosis), *of_bundle):
        cli_console.say(console, line)
    what = f"an engine for {target} can be built here" if target else "a bundle can be run here"
    return Outcome({"result": diagnosis}, what, diagnosis.failure)


def _bundle_line(bundle: Path) -> str:
    """Whether the ONNX Runtime here reads the graphs of a bundle; imports what a machine is diagnosed without."""
    from deploytool.bundle.manifest import read_manifest
    from deploytool.device.commands import bundle_line

    return bundle_line(read_manifest(bundle))
