"""The layout of `--help`: commands and options under headings, one line for each command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from deploytool.cli import config
from deploytool.device import arguments
from deploytool.errors import BadInput

WIDEST = 120  # columns of the longest line, also on a wider terminal
SHARED = "Every command"  # the heading of the options that all commands have
_OTHER = "Options"

COMMANDS: Mapping[str, Mapping[str, str]] = {  # heading: commands and their summaries, in the order of --help
    "Make": {
        "export": "Export a model to ONNX, FP16 and TensorRT, and check every file.",
        "sweep": "Export every cell of a table, on this machine or on a Dask cluster.",
        "train": "Train a model on CIFAR-10 or on folders of images.",
        "models": "List the built-in models.",
        "targets": "List the devices that engines can be built for.",
    },
    "Check": {
        "show": "Show a run, one of its files, or the cost of a model's layers.",
        "report": "Write the report page of a run, or one page for several runs.",
        "bench": "Time every artifact of a run, or every backend of a bundle.",
        "blame": "Find the first layer of a run whose output is wrong.",
        "faults": "Plant faults in a run's graph and count those that are caught.",
        "diff": "Compare two runs or bundles; fail if a budget is exceeded.",
    },
    "Device": {
        name: arguments.COMMANDS[name].summary
        for name in ("verify", "build", "run", "install", "status", "rollback", "pardon")
    },
    "Ship": {
        "pack": "Pack a run into a bundle that a device can verify and run.",
        "sign": "Sign a bundle with a private key.",
        "push": "Send a bundle to an OCI registry, or write it to one file.",
        "pull": arguments.COMMANDS["pull"].summary,
        "ship": "Send a bundle to a device over SSH and install it there.",
        "fleet": "Deploy, verify, build and measure on many devices over SSH.",
    },
    "More": {
        "doctor": arguments.COMMANDS["doctor"].summary,
        "clean": arguments.COMMANDS["clean"].summary,
    },
}


class Command(TyperCommand):
    """A command that refuses empty paths, and shows its options under the headings in their `rich_help_panel`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments; raises BadInput for an empty path, which pathlib takes for the working folder."""
        given, _, _ = self.make_parser(ctx).parse_args(args=[*args])
        types = config.kinds(ctx)
        for param in self.get_params(ctx):
            if given.get(param.name) == "" and types.get(str(param.name)) is Path:
                name = param.opts[0] if param.param_type_name == "option" else param.metavar or param.name
                raise BadInput(f"{name} is empty", "write a path, or leave it out; . is the working folder")
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments, then options by heading; shared options last."""
        write_options(self, ctx, formatter)


def write_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Writes arguments, then options by heading; shared options last."""
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], _OTHER: []}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None:
            panels.setdefault(_panel(param), []).append(record)
    for panel in sorted((name for name in panels if panels[name]), key=lambda name: name == SHARED):
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
