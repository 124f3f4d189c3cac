"""`deploytool train`: teaches a model from labelled pictures, and leaves weights that `export` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploytool.cli import completion, interrupt, params, progress
from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.errors import BadInput
from deploytool.loading import catalog
from deploytool.training.recipe import Epoch, Recipe

_USUAL = Recipe()


def train(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A name that `deploytool models` lists.", autocompletion=completion.model),
    ],
    data: Annotated[Path, typer.Option(metavar="DIR", help="CIFAR-10's binary files, or folders of pictures.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder for the weights.", show_default="artifacts/MODEL/train"),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Number of training epochs.")] = _USUAL.epochs,
    batch: Annotated[int, typer.Option(min=2, help="Batch size.")] = _USUAL.batch,
    learning_rate: Annotated[float, typer.Option(min=0, help="Initial learning rate of Adam.")] = _USUAL.learning_rate,
    step: Annotated[int, typer.Option(min=1, help="Epochs after which the learning rate falls.")] = _USUAL.step,
    gamma: Annotated[
        float, typer.Option(min=0, max=1, help="Factor that the learning rate is multiplied by at each step.")
    ] = _USUAL.gamma,
    validation: Annotated[
        float, typer.Option(min=0.01, max=0.5, help="Share of the images held out for validation.")
    ] = _USUAL.validation,
    padding: Annotated[int, typer.Option(min=0, help="Pixels by which pictures are shifted.")] = _USUAL.padding,
    flip: Annotated[bool, typer.Option(help="Mirror half of the pictures: not for digits or letters.")] = _USUAL.flip,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is random.")] = _USUAL.seed,
    arg: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An argument of the model's factory.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted run stopped.")] = True,
) -> Outcome:
    """Trains MODEL on the pictures in --data: as many classes as they have, at their size.

    The folder holds CIFAR-10's binary files, or `train` and `test` with one sub-folder a class each, or one sub-folder
    a class, of which a share is then split off for the test. Interrupted, the same command goes on where it stopped.
    Example: deploytool train mobilenet_v1_cifar --data cifar-10-batches-bin
    """
    from deploytool.training import checkpoint, loop, outputs, task  # here begins torch

    console = cli_console.stderr_console()
    if ":" in model:
        remedy = "train it with a loop of your own, then: deploytool export MODEL --weights FILE"
        raise BadInput(f"train knows the zoo's models alone, and {model} is none of them", remedy)
    found = catalog.find(model, arguments=params.arguments(arg or ()))
    recipe = Recipe(
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        step=step,
        gamma=gamma,
        validation=validation,
        padding=padding,
        flip=flip,
        seed=seed,
    )
    home = out or Path("artifacts") / found.name / "train"
    prepared = task.prepare(found, data, recipe)
    pictures, side = prepared.data, prepared.data.preprocessing.crop_size[0]
    cli_console.say(console, f"{found.name} for {len(pictures.classes)} classes at {side}×{side}")
    counts = (len(part) for part in (pictures.train, pictures.validation, pictures.test))
    cli_console.say(console, "pictures: {} to learn from, {} for validation, {} for the test".format(*counts))
    with interrupt.sweeping(partial(checkpoint.remove_unfinished, home)):
        history = _follow(console, epochs, lambda watch: loop.train(prepared, home, watch, resume))
        results = loop.finish(prepared, home)
    line = f"test accuracy {results.test.accuracy:.2%} with the weights of epoch {results.best_epoch}"
    cli_console.say(console, line)
    document = {"run": str(home), "recipe": recipe, "results": results, "history": history}
    return Outcome(document, line, next=f"deploytool export {found.name} --weights {home / outputs.WEIGHTS}")


def _follow(console: Console, epochs: int, start: Callable[[progress.Watch], Iterable[Epoch]]) -> tuple[Epoch, ...]:
    """Goes along with a training: a line for each epoch, and a progress bar where there is a terminal."""
    history: list[Epoch] = []
    with progress.epochs(console, epochs) as (watch, over):
        for record in start(watch):
            history.append(record)
            cli_console.say(console, _line(record, epochs))
            over(record.epoch, record.seconds)
    return tuple(history)


def _line(record: Epoch, epochs: int) -> str:
    return (
        f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}  rate {record.learning_rate:<8.4g}"
        f"  loss {record.train.loss:.4f}  accuracy {record.train.accuracy:.2%}"
        f"  validation {record.validation.loss:.4f}  {record.validation.accuracy:.2%}  {record.seconds:.1f} s"
    )
