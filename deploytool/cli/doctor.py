"""`deploytool doctor`: what this machine can do, and what is wrong with it."""

from __future__ import annotations

from typing import Annotated

import typer

from deploytool import doctor as doctors
from deploytool.cli import completion
from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.doctor import messages


def doctor(
    target: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="Whether an engine for that target can be built here.",
            autocompletion=completion.target,
        ),
    ] = "",
) -> Outcome:
    """Says what this machine can build, run and verify, finds known traps, and prints what mends them; mends nothing.

    It ends with 0 if an engine for --target can be built here, or without one if a bundle can be run here; else with 5.
    Examples: deploytool doctor · deploytool doctor --target rtx40
    """
    shown = doctors.examine(target)
    console = cli_console.stdout_console()
    for line in messages.lines(shown):
        cli_console.say(console, line)
    what = f"an engine for {target} can be built here" if target else "a bundle can be run here"
    return Outcome({"result": shown}, what, shown.failure)
