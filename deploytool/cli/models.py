"""`deploytool models`: lists the built-in models and those that installed packages add."""

from __future__ import annotations

from deploytool.cli import console
from deploytool.cli.command import Outcome
from deploytool.loading import catalog
from deploytool.spec import Model


def models() -> Outcome:
    """Lists the models with their input, classes, parameters and multiply-accumulates (MACs).

    Example: deploytool models
    """
    listed = catalog.models()
    columns = ("name", "input", ">classes", ">parameters", ">MACs")
    console.table(console.stdout_console(), "Models", columns, [_row(model) for model in listed])
    return Outcome({"models": listed}, f"{len(listed)} models", next="deploytool export NAME --trt")


def _row(model: Model) -> tuple[str, ...]:
    counts = (f"{count:,}" if count else "" for count in (model.parameters, model.macs))
    shape = "×".join(str(size) for size in model.inputs[0].shape[1:])
    classes = str(model.outputs[0].shape[-1]) if model.outputs else ""
    return (model.name, shape, classes, *counts)
