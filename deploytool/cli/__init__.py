"""The front door: the only place that prints, reads the environment, and exits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from deploytool import machine, plain
from deploytool.cli import (
    bench,
    blame,
    device,
    diff,
    doctor,
    export,
    manners,
    models,
    pack,
    prove,
    report,
    screen,
    ship,
    show,
    sign,
    stop,
    targets,
    train,
)
from deploytool.errors import BadInput, DeployError, MissingBackend

_EXIT_CODES = """
Exit codes: 0 all that was asked for held · 2 bad input · 3 parity failed · 4 too slow · 5 a backend is missing ·
6 not verified although required · 7 a tool refused the model · 8 a bundle was refused · 9 unreachable ·
10 over a budget · 130 interrupted
"""
_USAGE: type[Any] = typer.BadParameter.__mro__[2]  # the class of every wrong use, wherever this typer keeps it

app = typer.Typer(
    name="deploytool",
    help="Turns a PyTorch model into files an edge device can run, and proves that they are right and faster.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.callback()(manners.before)
for name, command in (
    ("export", export.export),
    ("models", models.models),
    ("targets", targets.targets),
    ("show", show.show),
    ("report", report.report),
    ("train", train.train),
    ("prove", prove.prove),
    ("blame", blame.blame),
    ("diff", diff.diff),
    ("doctor", doctor.doctor),
    ("pack", pack.pack),
    ("sign", sign.sign),
    ("verify", device.verify),
    ("build", device.build),
    ("run", device.run),
    ("bench", bench.bench),
    ("install", device.install),
    ("push", ship.push),
    ("pull", device.pull),
    ("ship", ship.ship),
    ("rollback", device.rollback),
):
    app.command(name, epilog=_EXIT_CODES)(manners.mannered(command))


def main() -> None:
    """Runs the command line; a failure we know ends with one problem, one remedy and its own exit code."""
    stop.watch(_interrupted)
    sys.path.append(str(Path.cwd()))  # where `package.module:factory` may lie, as with `python -m`
    stop.leave(_called())


def _called() -> int:
    try:
        if "doctor" not in sys.argv:  # which says so itself, and what else is wrong
            _both_runtimes()
        return int(app(standalone_mode=False) or 0)
    except DeployError as error:
        return _failed(error)
    except OSError as error:
        problem = f"{error.filename or 'a file'}: {error.strerror}"
        return _failed(BadInput(problem, "check the path, its rights and the disk"))
    except _USAGE as error:
        return _misused(error)


def _failed(error: DeployError) -> int:
    screen.failure(error)
    if _json():
        screen.document({"error": screen.told(error)})
    return error.exit_code


def _misused(error: Any) -> int:
    """A wrong option: its usage and what is wrong with it, on stderr."""
    error.show()
    if _json():
        screen.document({"error": screen.told(BadInput(error.format_message(), "see --help"))})
    return int(error.exit_code)


def _interrupted() -> bytes:
    """What stdout gets if an interruption ends us."""
    error = {"problem": "interrupted", "remedy": "the same command goes on with what is finished", "exit_code": 130}
    return plain.text({"error": error}).encode() if _json() else b""


def _json() -> bool:
    """Whether a document was asked for, also where the command line was not understood."""
    return screen.manner().json or "--json" in sys.argv


def _both_runtimes() -> None:
    if machine.version("onnxruntime") and machine.version("onnxruntime-gpu"):
        raise MissingBackend(
            "onnxruntime and onnxruntime-gpu are both installed, and each overwrites the other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install the one you want",
        )
