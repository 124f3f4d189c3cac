"""`deploytool show`: what a run, or any one artifact of it, is and came from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli import completion, params, summary
from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.errors import BadInput
from deploytool.loading import catalog
from deploytool.results import receipt, report
from deploytool.results.artifact import Kind
from deploytool.results.receipt import Receipt
from deploytool.spec import Model, Stage

_LONGEST = 400  # letters of a note

if TYPE_CHECKING:
    from deploytool.loading.cost import Cost


def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE|MODEL",
            help="A run's folder, a file in it, or with --cost a model.",
            autocompletion=completion.path_or_model,
        ),
    ],
    cost: Annotated[bool, typer.Option("--cost", help="What each layer of a model costs.")] = False,
    input_: Annotated[
        list[str] | None, typer.Option("--input", metavar="SHAPE", help="With --cost: as for export.")
    ] = None,
    arg: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="With --cost: as for export.")] = None,
) -> Outcome:
    """Shows a run's report, where one of its artifacts came from, or what each layer of a model costs.

    Examples: deploytool show artifacts/shufflenet_g3 · deploytool show --cost mobilenet_v1
    """
    if cost:
        model = catalog.find(what, params.tensors(input_ or ()), params.arguments(arg or ()))
        said = [("--input", text) for text in input_ or ()] + [("--arg", text) for text in arg or ()]
        return _cost(model, shlex.join([what, *(word for each in said for word in each)]))
    path = Path(what)
    if path.is_file():
        return _artifact(path)
    from deploytool.pipeline import runner  # here begins numpy

    found = runner.stage_directories(path)
    if not found:
        raise BadInput(f"{path} holds no run", "give a folder that `deploytool export` made, or a file in one")
    console, rows = cli_console.stdout_console(), [_row(room, sealed) for room, sealed in found]
    cli_console.table(console, "What was made", ("artifact", ">seconds", "digest", "state"), rows)
    written = path / Stage.VALIDATE / Kind.REPORT.value
    shown = report.read(written) if written.is_file() else None
    document = {"run": str(path), "receipts": [sealed for _, sealed in found], "report": shown}
    if shown is None:
        return Outcome(document, f"{path}: unfinished")
    summary.show(console, shown, path)
    packed = next((room for room, sealed in found if room.name == Stage.PACK and receipt.matches(room, sealed)), None)
    return summary.outcome(document, shown, path, bundle=packed / "bundle" if packed else None)


def _cost(model: Model, command: str) -> Outcome:
    from deploytool.loading.cost import costs  # here begins torch

    layers = costs(model)
    total = sum(layer.macs for layer in layers) or 1
    rows = [
        (layer.layer, _words(layer), "×".join(map(str, layer.output)), f"{layer.parameters:,}", f"{layer.macs:,}")
        for layer in layers
    ]
    columns = ("layer", "kind (1/g of a dense one)", ">output", ">parameters", ">MACs")
    console = cli_console.stdout_console()
    cli_console.table(console, f"{model.name}, batch 1", columns, rows)
    parameters = sum(layer.parameters for layer in layers)
    line = f"{parameters:,} parameters in these layers, {total:,} multiply-accumulates"
    cli_console.say(console, line)
    return Outcome({"model": model.name, "layers": layers}, line, next=f"deploytool export {command}")


def _words(layer: Cost) -> str:
    kernel = f" {layer.kernel}×{layer.kernel}" if layer.kernel > 1 else ""
    return f"{layer.kind}{kernel}" + (f" (1/{layer.groups})" if layer.groups > 1 else "")


def _row(room: Path, sealed: Receipt) -> tuple[str, ...]:
    state = "as made" if receipt.matches(room, sealed) else "CHANGED since it was made"
    if sealed.kind.value not in sealed.files:
        state = "left out: see the report"
    digest = sealed.files.get(sealed.kind.value, "–")[:12]
    return (f"{room.name}/{sealed.kind.value}", f"{sealed.seconds:.2f}", digest, state)


def _short(value: object) -> str:
    """A note as far as a table can hold it."""
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … (--json gives it all)"


def _artifact(path: Path) -> Outcome:
    sealed = receipt.read(path.parent)
    if sealed is None or path.name not in sealed.files:
        raise BadInput(f"{path} is no artifact of a run: no receipt beside it names it", "give a file that export made")
    rows = [("made by", sealed.made_by), ("from", ", ".join(sealed.parents) or "the definition")]
    rows += [("SHA-256", sealed.files[path.name]), ("state", _row(path.parent, sealed)[-1])]
    rows += [(name, version) for name, version in sealed.versions.items()]
    rows += [(name, _short(value)) for name, value in sealed.notes.items()]
    cli_console.table(cli_console.stdout_console(), str(path), ("", "~"), rows)
    return Outcome({"receipt": sealed}, f"{path}: {_row(path.parent, sealed)[-1]}")
