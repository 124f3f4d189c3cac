"""The front door: the only place that prints, reads the environment, and exits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from deploytool import serde
from deploytool.cli import command, console, interrupt, listing
from deploytool.errors import BadInput, DeployError, MissingBackend
from deploytool.host import exception_text, machine

_EXIT_CODES = """
Exit codes: 0 all that was asked for held · 1 unforeseen · 2 bad input · 3 parity failed · 4 too slow ·
5 a backend is missing · 6 not verified although required · 7 a tool refused the model · 8 a bundle was refused ·
9 unreachable · 10 over a budget · 130 interrupted
"""
_USAGE: type[Any] = typer.BadParameter.__mro__[2]  # the class of every wrong use, wherever this typer keeps it

_FILES: Mapping[str, str] = {  # of deploytool/cli: where each command is, which is a function of its own name
    "export": "export",
    "models": "models",
    "targets": "targets",
    "show": "show",
    "report": "report",
    "train": "train",
    "faults": "faults",
    "blame": "blame",
    "diff": "diff",
    "doctor": "doctor",
    "pack": "pack",
    "sign": "sign",
    "verify": "device",
    "build": "device",
    "run": "device",
    "bench": "bench",
    "install": "device",
    "push": "ship",
    "pull": "device",
    "ship": "ship",
    "rollback": "device",
    "pardon": "device",
    "clean": "clean",
}


class Commands(TyperGroup):
    """The commands, each imported where it is called or listed: looking at a run does not wait for all others."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order in which --help has them."""
        return [name for commands in listing.COMMANDS.values() for name in commands]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The commands under their headings, none imported for it, then the options."""
        listing.write_commands(formatter)
        listing.write_options(self, ctx, formatter)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None if there is none, and then all are at hand for a guess at what was meant."""
        if cmd_name not in _FILES:
            for name in _FILES:
                self.get_command(ctx, name)
        elif cmd_name not in self.commands:
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
            called = getattr(import_module(f"deploytool.cli.{_FILES[cmd_name]}"), cmd_name)
            alone.command(cmd_name, cls=listing.Command, epilog=_EXIT_CODES)(command.with_shared_options(called))
            self.add_command(typer.main.get_command(alone))
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="deploytool",
    cls=Commands,
    help="Exports a PyTorch model to ONNX, FP16 and TensorRT, and checks every file for accuracy and speed.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": listing.WIDEST},
)
app.callback()(command.before)


def main() -> None:
    """Runs the command line; a failure we know ends with one problem, one remedy and its own exit code."""
    console.settle()
    try:
        interrupt.install_handlers(_interrupted)
    except (OSError, RuntimeError) as error:  # no file may be opened any more, or no thread begun
        interrupt.exit_on_signal(_failed(exception_text.as_error(error)))
    interrupt.exit_on_signal(_called())


def _called() -> int:
    try:
        if "doctor" not in sys.argv:  # which says so itself, and what else is wrong
            _both_runtimes()
        return int(app(standalone_mode=False) or 0)
    except DeployError as error:
        return _failed(error)
    except _USAGE as error:
        return _misused(error)
    except Exception as error:  # the last boundary: one line, whatever was raised
        foreseen = exception_text.as_error(error)
        foreseen.__cause__ = error
        return _failed(foreseen)


def _failed(error: DeployError) -> int:
    console.failure(error)
    if _json():
        console.document({"error": console.with_lines(error)})
    return error.exit_code


def _misused(error: Any) -> int:
    """A wrong option: its usage and what is wrong with it, on stderr."""
    console.misused(error)
    if _json():
        console.document({"error": console.with_lines(BadInput(error.format_message(), "see --help"))})
    return int(error.exit_code)


def _interrupted() -> bytes:
    """What stdout gets if an interruption ends us."""
    error = {"problem": "interrupted", "remedy": "the same command goes on with what is finished", "exit_code": 130}
    return serde.text({"error": error}).encode() if _json() else b""


def _json() -> bool:
    """Whether a document was asked for, also where the command line was not understood."""
    return console.manner().json or "--json" in sys.argv


def _both_runtimes() -> None:
    if machine.version("onnxruntime") and machine.version("onnxruntime-gpu"):
        raise MissingBackend(
            "onnxruntime and onnxruntime-gpu are both installed, and each overwrites the other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install the one you want",
        )
