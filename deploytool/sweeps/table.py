"""The table of a sweep: its words, what each may be, and the cells that their product has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.loading import catalog, factory
from deploytool.loading.hub import doors
from deploytool.pipeline import options as checks
from deploytool.pipeline.export_options import DECLARATIONS, ExportOptions
from deploytool.pipeline.recipe import ONNX
from deploytool.results.sweep import Cell
from deploytool.spec import AUTO, FLOATS, Options, Precision, Range, SourceKind
from deploytool.sweeps import exclude
from deploytool.targets import TARGETS, THIS

_MAX_NAME = 120  # characters; beyond it a name ends with a digest
_MAX_CELLS = 100_000


@dataclass(frozen=True, kw_only=True)
class SweepTable:
    """The words of a sweep; an empty one takes the value of the shared options, or their default.

    `weights` are files, each for all models or as `MODEL=FILE` for one. `batches` are `N` or
    `SMALLEST:TYPICAL:LARGEST`. `exclude` leaves out every cell that matches all parts of one entry, such as
    `model=mobile*,target=orin`.
    """

    models: Sequence[str] = ()
    precisions: Sequence[str] = ()
    exporters: Sequence[str] = ()
    targets: Sequence[str] = ()
    batches: Sequence[str | int] = ()
    weights: Sequence[str | Path] = ()
    data: Sequence[str | Path] = ()
    quick: bool = False
    exclude: Sequence[str] = ()


def cells(table: SweepTable, shared: ExportOptions, remark: Callable[[str], None] = lambda _: None) -> tuple[Cell, ...]:
    """The cells of a table in its order, each once; raises BadInput for an unknown word and for an empty product.

    `remark` is called with one line for each entry of `exclude` that leaves out no cell.

    An FP32 graph has no engine: with precision fp32 there is one cell for all targets together.
    """
    precision_words = table.precisions or [Precision.FP32 if shared.to == ONNX else Precision.FP16]
    precisions = [_precision(word) for word in precision_words]
    known_exporters = DECLARATIONS["exporter"].choices
    exporters = [exclude.word("exporter", word, known_exporters) for word in table.exporters or [shared.exporter]]
    targets = [_target(word) for word in table.targets or checks.names("--target", shared.targets) or [""]]
    batches: list[Range | None] = [_batch(word) for word in table.batches]
    batches = batches or [_shared_batch(shared)]
    data = [str(folder) for folder in table.data] or [str(shared.data or "")]
    quick = table.quick or shared.quick
    exclusion = exclude.Exclusion(table.exclude)
    _check_paths(table)
    if not table.models:
        raise BadInput("the sweep names no model", "write models = ['mobilenet_v1'] below [sweep], or --models NAME,…")
    for model in table.models:
        _check_model(model, shared)
    files = _weights(table, shared)
    made: dict[str, Cell] = {}
    for model in dict.fromkeys(table.models):
        axes = product(files[model], precisions, exporters, targets, batches, data)
        for weights, precision, exporter, target, batch, folder in axes:
            engine = target if precision == Precision.FP16 else ""
            cell = Cell("", model, weights, Precision(precision), exporter, engine, batch, folder, quick)
            if not exclusion.leaves_out(cell, target):
                cell = replace(cell, name=_name(cell))
                made.setdefault(cell.name, cell)
        if len(made) > _MAX_CELLS:
            raise BadInput(f"the sweep has more than {_MAX_CELLS} cells", "leave out some words")
    if not made:
        raise BadInput("the sweep is empty: `exclude` leaves out every cell", "shorten `exclude`")
    for line in exclusion.remarks():
        remark(line)
    return tuple(made.values())


def _check_paths(table: SweepTable) -> None:
    """Raises BadInput for an empty path."""
    for word, paths in (("weights", table.weights), ("data", table.data)):
        if not all(str(path).strip() for path in paths):
            raise BadInput(f"`{word}` has an empty path", f"write a path, or leave `{word}` out")


def _precision(word: str) -> str:
    """A precision of the table; raises BadInput, also for one that is an option of every cell."""
    if word in tuple(Precision) and word not in FLOATS:
        problem = f"{word} is no precision of the table, which decides between the FP32 graph alone and FP16 as well"
        raise BadInput(problem, f'write precision = "{word}" below [export]: every FP16 cell makes it beside FP16')
    return exclude.word("precision", word, FLOATS)


def _target(word: str) -> str:
    if word in ("", exclude.NO_TARGET):
        return ""
    return exclude.word("target", word, (*TARGETS, THIS, exclude.NO_TARGET))


def _batch(word: str | int) -> Range:
    sizes = str(word).split(":")
    if len(sizes) not in (1, 3) or not all(size.isdecimal() for size in sizes):
        raise BadInput(f"there is no batch {word!r}", "write a size, 8, or SMALLEST:TYPICAL:LARGEST, 1:8:32")
    smallest, typical, largest = map(int, sizes * 3 if len(sizes) == 1 else sizes)
    return checks.size_range("batch", (smallest, typical, largest))


def _shared_batch(shared: ExportOptions) -> Range | None:
    batch = checks.size_range("batch", shared.batch)
    return None if batch == Options.batch else batch


def _check_model(model: str, shared: ExportOptions) -> None:
    """Raises BadInput for a model of the catalog that does not exist, and for a file that does not."""
    if doors.is_hub(model):
        return  # its library is imported by the cell
    if factory.kind(model) is SourceKind.GRAPH:
        if not Path(model).is_file():
            raise BadInput(f"there is no file {model}", "check the path")
    elif ":" in model:
        factory.source_files(model)
    else:
        catalog.find(model, (), shared.arguments or {})


def _weights(table: SweepTable, shared: ExportOptions) -> Mapping[str, list[str]]:
    """The weights files of each model; a file for one model replaces those for all."""
    own: dict[str, list[str]] = {model: [] for model in table.models}
    common: list[str] = []
    for entry in map(str, table.weights):
        model, equals, file = entry.partition("=")
        if equals and model in own:
            own[model].append(_file(file))
        elif equals and not Path(entry).exists():
            raise BadInput(f"weights {entry!r} names no model of the sweep", f"choose from {', '.join(own)}")
        else:
            common.append(_file(entry))
    everywhere = common or ([str(shared.weights)] if shared.weights else [""])
    return {model: list(dict.fromkeys(files)) or everywhere for model, files in own.items()}


def _file(path: str) -> str:
    if not Path(path).is_file():
        raise BadInput(f"there is no file {path}", "check the path in `weights`")
    return path


def _name(cell: Cell) -> str:
    """The name of a cell's folder: its words; with a digest if they are not in it as they are."""
    parts = [cell.model, cell.precision.value, "" if cell.exporter == AUTO else cell.exporter, cell.target]
    parts += [f"b{exclude.batch_text(cell.batch)}" if cell.batch else "", Path(cell.weights).stem, Path(cell.data).name]
    parts += ["quick" if cell.quick else ""]
    words = [part for part in parts if part]
    slugs = [re.sub(r"[^A-Za-z0-9_.]+", "_", word).strip("._") for word in words]
    name = "-".join(slugs)
    is_whole = slugs[1:] == [word.replace(":", "_") for word in words[1:]] and slugs[0] == words[0]
    if is_whole and not cell.weights and not cell.data and len(name) <= _MAX_NAME:
        return name
    return f"{name[:_MAX_NAME]}-{serde.digest(cell)[:8]}"
