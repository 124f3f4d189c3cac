"""`deploytool doctor`: what this machine can do, and what is wrong with it."""

from __future__ import annotations

from typing import Annotated

import typer

from deploytool import doctor as doctors
from deploytool.cli import screen
from deploytool.doctor import telling


def doctor(
    target: Annotated[str, typer.Option(help="Whether an engine for that target can be built here.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Says what this machine can build, run and verify, finds known traps, and prints what mends them; mends nothing.

    It ends with 0 if an engine for --target can be built here, or without one if a bundle can be run here; else with 5.
    """
    shown = doctors.examine(target)
    if as_json:
        screen.document({"result": shown, "error": screen.told(shown.failure)})
    else:
        console = screen.people(as_json=False)
        for line in telling.told(shown):
            screen.say(console, line)
    if shown.failure:
        screen.failure(shown.failure)
        raise typer.Exit(shown.failure.exit_code)
