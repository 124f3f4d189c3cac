"""`deploytool models`: what the zoo holds."""

from __future__ import annotations

from deploytool.cli import console
from deploytool.cli.command import Outcome
from deploytool.loading import catalog
from deploytool.spec import Model


def models() -> Outcome:
    """Lists every model: name, input, classes, parameters and multiply-accumulates.

    Example: deploytool models
    """
    found = catalog.models()
    columns = ("name", "input", ">classes", ">parameters", ">MACs")
    console.table(console.stdout_console(), "Models", columns, [_row(model) for model in found])
    return Outcome({"models": found}, f"{len(found)} models", next="deploytool export NAME --trt")


def _row(model: Model) -> tuple[str, ...]:
    figures = (f"{figure:,}" if figure else "" for figure in (model.parameters, model.macs))
    shape = "×".join(str(side) for side in model.inputs[0].shape[1:])
    classes = str(model.outputs[0].shape[-1]) if model.outputs else ""
    return (model.name, shape, classes, *figures)
