"""The front door: the only place that prints, reads the environment, and exits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import typer

from deploytool import machine
from deploytool.cli import (
    blame,
    device,
    doctor,
    export,
    models,
    pack,
    prove,
    report,
    screen,
    ship,
    show,
    sign,
    targets,
    train,
)
from deploytool.errors import BadInput, DeployError, MissingBackend

_EXIT_CODES = """
Exit codes: 0 all that was asked for held · 2 bad input · 3 parity failed · 4 too slow · 5 a backend is missing ·
6 not verified although required · 7 a tool refused the model · 8 a bundle was refused · 9 unreachable ·
130 interrupted
"""

app = typer.Typer(
    name="deploytool",
    help="Turns a PyTorch model into files an edge device can run, and proves that they are right and faster.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("export", epilog=_EXIT_CODES)(export.export)
app.command("models")(models.models)
app.command("targets")(targets.targets)
app.command("show")(show.show)
app.command("report")(report.report)
app.command("train")(train.train)
app.command("prove")(prove.prove)
app.command("blame")(blame.blame)
app.command("doctor")(doctor.doctor)
app.command("pack")(pack.pack)
app.command("sign")(sign.sign)
app.command("verify")(device.verify)
app.command("build")(device.build)
app.command("run")(device.run)
app.command("bench")(device.bench)
app.command("install")(device.install)
app.command("push")(ship.push)
app.command("pull")(device.pull)
app.command("ship")(ship.ship)
app.command("rollback")(device.rollback)


def main() -> None:
    """Runs the command line; a failure we know ends with one problem, one remedy and its own exit code."""
    sys.path.append(str(Path.cwd()))  # where `package.module:factory` may lie, as with `python -m`
    try:
        if sys.argv[1:2] != ["doctor"]:  # which says so itself, and what else is wrong
            _both_runtimes()
        app()
    except DeployError as error:
        _end(error)
    except OSError as error:
        problem = f"{error.filename or 'a file'}: {error.strerror}"
        _end(BadInput(problem, "check the path, its rights and the disk"))
    except KeyboardInterrupt:
        sys.exit(130)


def _end(error: DeployError) -> NoReturn:
    screen.failure(error)
    if "--json" in sys.argv:
        screen.document({"error": screen.told(error)})
    sys.exit(error.exit_code)


def _both_runtimes() -> None:
    if machine.version("onnxruntime") and machine.version("onnxruntime-gpu"):
        raise MissingBackend(
            "onnxruntime and onnxruntime-gpu are both installed, and each overwrites the other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install the one you want",
        )
