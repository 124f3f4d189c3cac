"""The command line program: the list of commands, how each is imported, and how the process exits."""

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
Exit codes: 0 success · 1 unexpected error · 2 bad input · 3 parity failed · 4 too slow ·
5 a backend is missing · 6 not verified although required · 7 a tool refused the model · 8 a bundle was refused ·
9 unreachable · 10 over a budget · 130 interrupted
"""
_UsageError: type[Any] = typer.BadParameter.__mro__[2]  # its module depends on the version of typer

COMMAND_MODULES: Mapping[str, str] = {  # command: the module in deploytool/cli with the function of that name
    "export": "export",
    "sweep": "sweep",
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
    "fleet": "fleet",
    "status": "device",
    "rollback": "device",
    "pardon": "device",
    "clean": "clean",
}


class Commands(TyperGroup):
    """The group of commands; each command is imported only when it is called, which keeps start-up short."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, in the order of --help."""
        return [name for commands in listing.COMMANDS.values() for name in commands]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands under their headings, without importing them, then the options."""
        listing.write_commands(formatter)
        listing.write_options(self, ctx, formatter)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None; in that case all commands are loaded, so that typer can suggest one."""
        if cmd_name not in COMMAND_MODULES:
            for name in COMMAND_MODULES:
                self.get_command(ctx, name)
        elif cmd_name not in self.commands:
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
            function = getattr(import_module(f"deploytool.cli.{COMMAND_MODULES[cmd_name]}"), cmd_name)
            single.command(cmd_name, cls=listing.Command, epilog=_EXIT_CODES)(command.with_shared_options(function))
            self.add_command(typer.main.get_command(single))
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
    """Runs the command line and exits; an error is printed as one problem and one remedy."""
    console.ignore_invalid_size()
    try:
        interrupt.install_handlers(_interrupted)
    except (OSError, RuntimeError) as error:  # too many open files or threads
        interrupt.exit_on_signal(_failed(exception_text.as_error(error)))
    interrupt.exit_on_signal(run())


def run() -> int:
    """Runs the command of sys.argv and returns its exit code; an error is printed, never raised."""
    try:
        if "doctor" not in sys.argv:  # doctor reports this itself
            _check_runtimes()
        return int(app(standalone_mode=False) or 0)
    except DeployError as error:
        return _failed(error)
    except _UsageError as error:
        return _misused(error)
    except Exception as error:  # an unexpected exception is one line too
        converted = exception_text.as_error(error)
        converted.__cause__ = error
        return _failed(converted)


def _failed(error: DeployError) -> int:
    """Prints the error and returns its exit code."""
    console.failure(error)
    if _json():
        console.document({"error": console.error_document(error)})
    return error.exit_code


def _misused(error: Any) -> int:
    """Prints the usage and what is wrong with the arguments, and returns the exit code."""
    console.usage_error(error)
    if _json():
        console.document({"error": console.error_document(BadInput(console.usage_problem(error), "see --help"))})
    return int(error.exit_code)


def _interrupted() -> bytes:
    """The bytes that stdout gets when the process is interrupted."""
    error = {"problem": "interrupted", "remedy": interrupt.REMEDY, "exit_code": 130}
    return serde.text({"error": error}).encode() if _json() else b""


def _json() -> bool:
    """Whether --json was given, even if the arguments could not be parsed."""
    return console.mode().json or "--json" in sys.argv


def _check_runtimes() -> None:
    """Raises MissingBackend if both packages of ONNX Runtime are installed."""
    if machine.version("onnxruntime") and machine.version("onnxruntime-gpu"):
        raise MissingBackend(
            "onnxruntime and onnxruntime-gpu are both installed, and each overwrites the other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install the one you want",
        )
