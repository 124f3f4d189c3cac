"""`deploytool show`: shows a run or a sweep, the origin of one artifact, or the cost of a model's layers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli import completion, params, summary, sweep_results
from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.errors import BadInput
from deploytool.loading import catalog, factory
from deploytool.results import receipt, report
from deploytool.results import sweep as sweeps
from deploytool.results.artifact import Kind
from deploytool.results.receipt import Receipt
from deploytool.spec import Model, SourceKind, Stage

_MAX_NOTE = 400  # characters of a note in the table

if TYPE_CHECKING:
    from deploytool.loading.cost import Cost


def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE|MODEL",
            help="The folder of a run or a sweep, a file in a run, an ONNX file, or with --cost a model.",
            autocompletion=completion.path_or_model,
        ),
    ],
    cost: Annotated[bool, typer.Option("--cost", help="Show the cost of each layer of a model.")] = False,
    input_: Annotated[
        list[str] | None, typer.Option("--input", metavar="SHAPE", help="With --cost: shape of an input, as in export.")
    ] = None,
    arg: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="With --cost: argument of the factory, as in export.")
    ] = None,
) -> Outcome:
    """Shows the report of a run, the cells of a sweep, the origin of a file, an ONNX file, or the cost of a model.

    Examples: deploytool show artifacts/shufflenet_g3 · deploytool show --cost mobilenet_v1
    """
    if cost:
        model = catalog.find(what, params.tensors(input_ or ()), params.arguments(arg or ()))
        options = [("--input", text) for text in input_ or ()] + [("--arg", text) for text in arg or ()]
        return _cost(model, shlex.join([what, *(word for option in options for word in option)]))
    path = Path(what)
    if path.is_file():
        is_given = factory.kind(what) is SourceKind.GRAPH and not (path.parent / receipt.FILE).is_file()
        return _given(catalog.find(what, params.tensors(input_ or ()))) if is_given else _artifact(path)
    if sweeps.is_sweep(path):
        return sweep_results.show(path)
    from deploytool.pipeline import runner  # imports numpy

    stages = runner.stage_directories(path)
    if not stages:
        raise BadInput(f"{path} has no run", "give a folder that `deploytool export` made, or a file in one")
    console, rows = cli_console.stdout_console(), [_row(folder, entry) for folder, entry in stages]
    cli_console.table(console, "Artifacts", ("artifact", ">seconds", "digest", "state"), rows)
    file = path / Stage.VALIDATE / Kind.REPORT.value
    result = report.read(file) if file.is_file() else None
    document = {"run": str(path), "receipts": [entry for _, entry in stages], "report": result}
    if result is None:
        return Outcome(document, f"{path}: unfinished")
    summary.show(console, result, path)
    packed = [folder for folder, entry in stages if folder.name == Stage.PACK and receipt.matches(folder, entry)]
    return summary.outcome(document, result, path, bundle=packed[0] / "bundle" if packed else None)


def _given(model: Model) -> Outcome:
    """Prints what an ONNX file takes and returns, and what an export needs to know about it."""
    assert model.given is not None
    rows = [
        (tensor.name, place.name, "×".join(map(str, tensor.shape)), tensor.dtype)
        for place, tensor in zip(model.given.inputs, model.inputs, strict=True)
    ]
    console = cli_console.stdout_console()
    cli_console.table(console, f"Inputs of {model.factory}", ("input", "in the file", "~shape", "type"), rows)
    batch = "any" if model.given.batch is None else model.given.batch
    half = ", computes in FP16" if model.given.half else ", computes in FP64" if model.given.double else ""
    outputs = ", ".join(place.name for place in model.given.outputs)
    line = f"opset {model.given.opset}, batch {batch}{half}; outputs: {outputs}"
    open_sizes = {size for tensor in model.inputs for size in tensor.shape[1:] if isinstance(size, str)}
    sizes = [word for size in sorted(open_sizes) for word in ("--size", f"{size}=SMALLEST:TYPICAL:LARGEST")]
    command = shlex.join(["deploytool", "export", model.factory, *sizes])
    cli_console.say(console, line)
    return Outcome({"model": model}, line, next=command)


def _cost(model: Model, command: str) -> Outcome:
    """Prints the layers of a model; `command` are the arguments of the export that comes next."""
    from deploytool.loading.cost import costs  # imports torch

    layers = costs(model)
    total = sum(layer.macs for layer in layers) or 1
    rows = [
        (layer.layer, _kind(layer), "×".join(map(str, layer.output)), f"{layer.parameters:,}", f"{layer.macs:,}")
        for layer in layers
    ]
    columns = ("layer", "kind (1/groups)", ">output", ">parameters", ">MACs")
    console = cli_console.stdout_console()
    cli_console.table(console, f"{model.name}, batch 1", columns, rows)
    parameters = sum(layer.parameters for layer in layers)
    line = f"{parameters:,} parameters and {total:,} multiply-accumulates in these layers"
    cli_console.say(console, line)
    return Outcome({"model": model.name, "layers": layers}, line, next=f"deploytool export {command}")


def _kind(layer: Cost) -> str:
    """Kind and kernel of a layer; 1/groups is its share of the multiply-accumulates of a dense one."""
    kernel = f" {layer.kernel}×{layer.kernel}" if layer.kernel > 1 else ""
    return f"{layer.kind}{kernel}" + (f" (1/{layer.groups})" if layer.groups > 1 else "")


def _row(folder: Path, entry: Receipt) -> tuple[str, ...]:
    """Artifact, seconds, first characters of the digest, state."""
    name = entry.kind.value
    digest = entry.files.get(name, "–")[:12]
    return (f"{folder.name}/{name}", f"{entry.seconds:.2f}", digest, _state(folder, entry))


def _state(folder: Path, entry: Receipt) -> str:
    """Whether the files of a stage match its receipt."""
    if entry.kind.value not in entry.files:
        return "left out: see the report"
    return "unchanged" if receipt.matches(folder, entry) else "CHANGED since it was made"


def _short(value: object) -> str:
    """A note, cut to the length that a table shows."""
    text = str(value)
    return text if len(text) <= _MAX_NOTE else f"{text[:_MAX_NOTE]} … (complete with --json)"


def _artifact(path: Path) -> Outcome:
    """Prints the receipt of one artifact; raises BadInput if the file is not in a receipt."""
    entry = receipt.read(path.parent)
    if entry is None or path.name not in entry.files:
        problem = f"{path} is not an artifact of a run: it is not in a receipt in its folder"
        raise BadInput(problem, "give a file that `deploytool export` made")
    state = _state(path.parent, entry)
    rows = [("made by", entry.made_by), ("from", ", ".join(entry.parents) or "the model's definition")]
    rows += [("SHA-256", entry.files[path.name]), ("state", state)]
    rows += [(name, version) for name, version in entry.versions.items()]
    rows += [(name, _short(value)) for name, value in entry.notes.items()]
    cli_console.table(cli_console.stdout_console(), str(path), ("", "~"), rows)
    return Outcome({"receipt": entry}, f"{path}: {state}")
