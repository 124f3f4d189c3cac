"""Forwards the device commands to the front end of the device, which declares their arguments."""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from deploytool.cli import completion, console
from deploytool.cli.command import Outcome
from deploytool.device import arguments
from deploytool.device.arguments import Argument, MinimumBackend

_COMPLETIONS = {arguments.TARGET.name: completion.target}


def parameter(argument: Argument) -> Any:
    """The declaration of a device argument as typer's."""
    if not argument.flag:
        return typer.Argument(metavar=argument.metavar, help=argument.help)
    return typer.Option(
        argument.flag,
        metavar=argument.metavar,
        help=argument.help,
        show_default=argument.default_help or True,
        min=argument.minimum,
        max=argument.maximum,
        autocompletion=_COMPLETIONS.get(argument.name),
    )


Bundle = Annotated[Path, parameter(arguments.BUNDLE)]
PlainHttp = Annotated[bool, parameter(arguments.PLAIN_HTTP)]
Require = Annotated[MinimumBackend | None, parameter(arguments.REQUIRE)]
Build = Annotated[bool, parameter(arguments.BUILD)]
MaxLatency = Annotated[float | None, parameter(arguments.MAX_LATENCY)]
Key = Annotated[Path | None, parameter(arguments.KEY)]
Target = Annotated[str | None, parameter(arguments.TARGET)]
Timeout = Annotated[float | None, parameter(arguments.TIMEOUT)]
Ca = Annotated[Path | None, parameter(arguments.CA)]


def forward(name: str, values: Namespace) -> Outcome:
    """Calls a command of the device and prints the lines of its output."""
    from deploytool.device import __main__ as front_end

    output = front_end.call(name, values, console.note)
    for line in output.lines:
        console.say(console.stdout_console(), line)
    return Outcome({"result": output.document}, output.lines[output.verdict], output.failure)


def _command(name: str) -> Callable[..., Outcome]:
    """A function for typer with the arguments of a device command, which calls that command."""
    declared = arguments.COMMANDS[name]

    def command(**values: Any) -> Outcome:
        return forward(name, Namespace(**values))

    command.__name__ = name
    command.__doc__ = f"{declared.description}\n\nExample: deploytool {name} {declared.example}"
    signature = inspect.Signature([_signature_parameter(argument) for argument in declared.arguments])
    command.__signature__ = signature  # type: ignore[attr-defined]  # read by typer
    return command


def _signature_parameter(argument: Argument) -> inspect.Parameter:
    kind: Any = list[argument.kind] if argument.repeated else argument.kind  # type: ignore[name-defined]
    required = argument.required or not argument.flag
    if not required and argument.default is None:
        kind = kind | None
    return inspect.Parameter(
        argument.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else argument.default,
        annotation=Annotated[kind, parameter(argument)],
    )


verify, build, run, install, pull, status, rollback, pardon = map(
    _command, ("verify", "build", "run", "install", "pull", "status", "rollback", "pardon")
)
