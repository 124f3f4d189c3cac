"""How `--help` is laid out: commands and options under headings, each command with one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand

from deploytool.device import arguments

WIDEST = 120  # columns: a wider terminal makes no longer lines
SHARED = "Every command"  # the heading of the options that all commands have
_OTHER = "Options"

COMMANDS: Mapping[str, Mapping[str, str]] = {  # by heading: the commands, in the order in which --help has them
    "Make": {
        "export": "Export a model to ONNX, FP16 and TensorRT, and check every file.",
        "train": "Train a model on CIFAR-10 or on folders of images.",
        "models": "List the models that are built in.",
        "targets": "List the devices that engines can be built for.",
    },
    "Check": {
        "show": "Show a run, one of its files, or what a model's layers cost.",
        "report": "Write the page of a run, or one page of several runs.",
        "bench": "Time every file of a run, or every backend of a bundle.",
        "blame": "Find the first layer of a run whose output is wrong.",
        "faults": "Plant faults in a run's graph and see which are caught.",
        "diff": "Compare two runs or bundles; fail beyond a budget.",
    },
    "Device": {
        name: arguments.COMMANDS[name].summary for name in ("verify", "build", "run", "install", "rollback", "pardon")
    },
    "Ship": {
        "pack": "Pack a run into a bundle, with what a device needs to check it.",
        "sign": "Sign a bundle with a private key.",
        "push": "Send a bundle to an OCI registry, or into one file.",
        "pull": arguments.COMMANDS["pull"].summary,
        "ship": "Send a bundle to a device over ssh and install it there.",
    },
    "More": {
        "doctor": arguments.COMMANDS["doctor"].summary,
        "clean": arguments.COMMANDS["clean"].summary,
    },
}


class Command(TyperCommand):
    """A command whose options stand under the headings that their `rich_help_panel` names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments first, then options by heading, those of every command last."""
        write_options(self, ctx, formatter)


def write_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Writes arguments, then options by heading, those of every command last."""
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], _OTHER: []}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None:
            panels.setdefault(_panel(param), []).append(record)
    for panel in sorted((each for each in panels if panels[each]), key=lambda each: each == SHARED):
        with formatter.section(panel):
            formatter.write_dl(panels[panel])


def _panel(param: Any) -> str:
    if param.param_type_name == "argument":
        return "Arguments"
    return SHARED if param.name == "help" else getattr(param, "rich_help_panel", None) or _OTHER


def write_commands(formatter: Any) -> None:
    """Writes the commands under their headings."""
    for heading, commands in COMMANDS.items():
        with formatter.section(heading):
            formatter.write_dl(list(commands.items()))
