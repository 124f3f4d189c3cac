"""`deploytool doctor`: what this machine can do, and what is wrong with it."""

from __future__ import annotations

from typing import Annotated

import typer

from deploytool import doctor as doctors
from deploytool.cli import completing, screen
from deploytool.cli.manners import Outcome
from deploytool.doctor import telling


def doctor(
    target: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="Whether an engine for that target can be built here.",
            autocompletion=completing.target,
        ),
    ] = "",
) -> Outcome:
    """Says what this machine can build, run and verify, finds known traps, and prints what mends them; mends nothing.

    It ends with 0 if an engine for --target can be built here, or without one if a bundle can be run here; else with 5.
    Examples: deploytool doctor · deploytool doctor --target rtx40
    """
    shown = doctors.examine(target)
    console = screen.answer()
    for line in telling.told(shown):
        screen.say(console, line)
    what = f"an engine for {target} can be built here" if target else "a bundle can be run here"
    return Outcome({"result": shown}, what, shown.failure)
