"""`deploytool models`: what the zoo holds."""

from __future__ import annotations

from typing import Annotated

import typer

from deploytool import catalog
from deploytool.cli import screen
from deploytool.spec import Model


def models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Lists every model: name, input, classes, parameters and multiply-accumulates."""
    if as_json:
        screen.document(catalog.models())
        return
    columns = ("name", "input", ">classes", ">parameters", ">MACs")
    screen.table(screen.people(as_json=False), "Models", columns, [_row(model) for model in catalog.models()])


def _row(model: Model) -> tuple[str, ...]:
    figures = (f"{figure:,}" if figure else "" for figure in (model.parameters, model.macs))
    shape = "×".join(str(side) for side in model.inputs[0].shape[1:])
    classes = str(model.outputs[0].shape[-1]) if model.outputs else ""
    return (model.name, shape, classes, *figures)
