"""`deploytool train`: trains a model on labelled images and writes weights for `export`."""

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

_DEFAULTS = Recipe()


def train(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A name that `deploytool models` lists.", autocompletion=completion.model),
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="A folder with CIFAR-10's binary files, or with images by class.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder for the weights.", show_default="artifacts/MODEL/train"),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Number of training epochs.")] = _DEFAULTS.epochs,
    batch: Annotated[int, typer.Option(min=2, help="Batch size.")] = _DEFAULTS.batch,
    learning_rate: Annotated[
        float, typer.Option(min=0, help="Initial learning rate of Adam.")
    ] = _DEFAULTS.learning_rate,
    step: Annotated[int, typer.Option(min=1, help="Epochs after which the learning rate is reduced.")] = _DEFAULTS.step,
    gamma: Annotated[
        float, typer.Option(min=0, max=1, help="Factor that the learning rate is multiplied by at each step.")
    ] = _DEFAULTS.gamma,
    validation: Annotated[
        float, typer.Option(min=0.01, max=0.5, help="Share of the images held out for validation.")
    ] = _DEFAULTS.validation,
    padding: Annotated[
        int, typer.Option(min=0, help="Maximum random shift of a training image, in pixels.")
    ] = _DEFAULTS.padding,
    flip: Annotated[
        bool, typer.Option(help="Mirror half of the images; unsuitable for digits or letters.")
    ] = _DEFAULTS.flip,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = _DEFAULTS.seed,
    arg: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Argument of the model's factory.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue from the checkpoint of an interrupted training.")] = True,
) -> Outcome:
    """Trains MODEL on the images in --data, with their number of classes and their size.

    The folder holds CIFAR-10's binary files, or `train` and `test` with one subfolder for each class, or one subfolder
    for each class, of which a share is split off as the test set. The same command continues an interrupted training.
    Example: deploytool train mobilenet_v1_cifar --data cifar-10-batches-bin
    """
    from deploytool.training import checkpoint, loop, outputs, task  # imports torch

    console = cli_console.stderr_console()
    if ":" in model:
        remedy = "train it with your own code, then: deploytool export MODEL --weights FILE"
        raise BadInput(f"train supports built-in models only, and {model} is not one of them", remedy)
    definition = catalog.find(model, arguments=params.arguments(arg or ()))
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
    home = out or Path("artifacts") / definition.name / "train"
    prepared = task.prepare(definition, data, recipe)
    images, size = prepared.data, prepared.data.preprocessing.crop_size[0]
    cli_console.say(console, f"{definition.name} for {len(images.classes)} classes at {size}×{size}")
    counts = (len(part) for part in (images.train, images.validation, images.test))
    cli_console.say(console, "images: {} for training, {} for validation, {} for testing".format(*counts))
    with interrupt.sweeping(partial(checkpoint.remove_unfinished, home)):
        history = _follow(console, epochs, lambda watch: loop.train(prepared, home, watch, resume))
        results = loop.finish(prepared, home)
    line = f"test accuracy {results.test.accuracy:.2%} with the weights of epoch {results.best_epoch}"
    cli_console.say(console, line)
    document = {"run": str(home), "recipe": recipe, "results": results, "history": history}
    return Outcome(document, line, next=f"deploytool export {definition.name} --weights {home / outputs.WEIGHTS}")


def _follow(console: Console, epochs: int, start: Callable[[progress.Watch], Iterable[Epoch]]) -> tuple[Epoch, ...]:
    """Runs a training and returns its epochs; prints a line for each, and shows a progress bar on a terminal."""
    history: list[Epoch] = []
    with progress.epochs(console, epochs) as (watch, end_epoch):
        for record in start(watch):
            history.append(record)
            cli_console.say(console, _line(record, epochs))
            end_epoch(record.epoch, record.seconds)
    return tuple(history)


def _line(record: Epoch, epochs: int) -> str:
    return (
        f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}  rate {record.learning_rate:<8.4g}"
        f"  loss {record.train.loss:.4f}  accuracy {record.train.accuracy:.2%}"
        f"  validation {record.validation.loss:.4f}  {record.validation.accuracy:.2%}  {record.seconds:.1f} s"
    )
