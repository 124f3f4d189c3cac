"""`deploytool show`: what a run, or any one artifact of it, is and came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool import catalog, pipeline, receipt, report
from deploytool.artifact import Kind
from deploytool.cli import asked, screen, summary
from deploytool.errors import BadInput
from deploytool.receipt import Receipt
from deploytool.spec import Model

if TYPE_CHECKING:
    from deploytool.cost import Cost


def show(
    what: Annotated[str, typer.Argument(help="A run's folder, a file in it, or with --cost a model.")],
    cost: Annotated[bool, typer.Option("--cost", help="What each layer of a model costs.")] = False,
    input_: Annotated[list[str] | None, typer.Option("--input", help="With --cost: as for export.")] = None,
    arg: Annotated[list[str] | None, typer.Option(help="With --cost: as for export.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Shows a run's report, where one of its artifacts came from, or what each layer of a model costs.

    Examples: deploytool show artifacts/shufflenet_g3 · deploytool show --cost mobilenet_v1
    """
    if cost:
        _cost(catalog.find(what, asked.tensors(input_ or ()), asked.arguments(arg or ())), as_json=as_json)
        return
    path = Path(what)
    if path.is_file():
        _artifact(path, as_json=as_json)
        return
    found = pipeline.rooms(path)
    if not found:
        raise BadInput(f"{path} holds no run", "give a folder that `deploytool export` made, or a file in one")
    if as_json:
        screen.document([sealed for _, sealed in found])
        return
    console, rows = screen.people(as_json=False), [_row(room, sealed) for room, sealed in found]
    screen.table(console, "What was made", ("artifact", ">seconds", "digest", "state"), rows)
    written = path / "validate" / Kind.REPORT.value
    if written.is_file():
        summary.show(console, report.read(written), path)


def _cost(model: Model, *, as_json: bool) -> None:
    from deploytool.cost import costs  # here begins torch

    layers = costs(model)
    if as_json:
        screen.document(layers)
        return
    total = sum(layer.macs for layer in layers) or 1
    rows = [
        (layer.layer, _words(layer), "×".join(map(str, layer.output)), f"{layer.parameters:,}", f"{layer.macs:,}")
        for layer in layers
    ]
    columns = ("layer", "kind (1/g of a dense one)", ">output", ">parameters", ">MACs")
    console = screen.people(as_json=False)
    screen.table(console, f"{model.name}, batch 1", columns, rows)
    parameters = sum(layer.parameters for layer in layers)
    screen.say(console, f"{parameters:,} parameters in these layers, {total:,} multiply-accumulates")


def _words(layer: Cost) -> str:
    kernel = f" {layer.kernel}×{layer.kernel}" if layer.kernel > 1 else ""
    return f"{layer.kind}{kernel}" + (f" (1/{layer.groups})" if layer.groups > 1 else "")


def _row(room: Path, sealed: Receipt) -> tuple[str, ...]:
    state = "as made" if receipt.proves(room, sealed) else "CHANGED since it was made"
    digest = sealed.files[sealed.kind.value][:12]
    return (f"{room.name}/{sealed.kind.value}", f"{sealed.seconds:.2f}", digest, state)


def _artifact(path: Path, *, as_json: bool) -> None:
    sealed = receipt.read(path.parent)
    if sealed is None or path.name not in sealed.files:
        raise BadInput(f"{path} is no artifact of a run: no receipt beside it names it", "give a file that export made")
    if as_json:
        screen.document(sealed)
        return
    rows = [("made by", sealed.made_by), ("from", ", ".join(sealed.parents) or "the definition")]
    rows += [("SHA-256", sealed.files[path.name]), ("state", _row(path.parent, sealed)[-1])]
    rows += [(name, version) for name, version in sealed.versions.items()]
    rows += [(name, str(value)) for name, value in sealed.notes.items()]
    screen.table(screen.people(as_json=False), str(path), ("", ""), rows)
