"""What the result of a cell depends on: options, versions, deploytool's own code, and the content of input files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from deploytool import serde
from deploytool.data import items
from deploytool.errors import BadInput, DeployError
from deploytool.host import machine
from deploytool.loading import factory, shards
from deploytool.loading.hub import doors
from deploytool.pipeline.export_options import INPUT_PATHS, ExportOptions
from deploytool.results.sweep import Cell
from deploytool.spec import SourceKind
from deploytool.sweeps import serial

_PACKAGE = Path(__file__).resolve().parents[1]
_LIBRARIES = (
    *("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "onnxsim", "numpy"),
    *("openvino", "pillow", "timm", "transformers"),
)
_ENGINES = ("tensorrt", "tensorrt-rtx")
_ITEMS = ("data", "calibration")  # options that may be a table of images
CODE = "deploytool's code"  # an entry of `versions` beside the distributions


@cache
def versions() -> Mapping[str, str]:
    """What every worker must have in common: versions of libraries, and the digest of deploytool's own code.

    Without that of Python: only text travels between machines.
    """
    found = {name: version for name in (*_LIBRARIES, *_ENGINES) if (version := machine.version(name))}
    return {**found, CODE: code_digest()[:12]}


@cache
def code_digest() -> str:
    """The digest of all of deploytool's source files and of the zoo's."""
    folders = {_PACKAGE: "deploytool", factory.zoo_folder(): "models"}
    files = ((name, folder, path) for folder, name in folders.items() for path in sorted(folder.rglob("*.py")))
    own = {f"{name}/{path.relative_to(folder)}": serde.file_digest(path) for name, folder, path in files}
    return serde.digest({name: digest for name, digest in own.items() if not name.startswith("deploytool/models/")})


def cell_key(cell: Cell, options: ExportOptions) -> str:
    """The digest of everything that a cell's result depends on, as far as it is known before it runs.

    Files that the model's own code reads are added by the receipts of its run.
    """
    named = {str(path): _digest(path) for path in input_paths(cell.model, options)}
    return serde.digest([*named.items()], serde.encode(cell), serial.encode(options), versions())


def input_paths(model: str, options: ExportOptions) -> Iterator[Path]:
    """The files and folders of the user that an export reads."""
    yield from model_files(model)
    for name in INPUT_PATHS:
        value = getattr(options, name)
        if isinstance(value, (str, Path)) and str(value):
            yield Path(value)
            yield from _listed(name, Path(value))
    if options.metric and ":" in options.metric:
        yield from factory.source_files(options.metric)


def _listed(name: str, path: Path) -> Sequence[Path]:
    """The files that a file of an option names: images of a table, shards of an index."""
    if name in _ITEMS and items.is_table(path):
        return items.files(path)[1:]
    return shards.shard_files(path) if name == "weights" else ()


def model_files(model: str) -> tuple[Path, ...]:
    """The user's own files of a model; none for one of the zoo or of a library, which `versions` covers."""
    if doors.is_hub(model):
        try:
            return doors.files(model)
        except DeployError:
            return ()  # the cell itself says what is missing
    return () if is_catalog(model) else factory.source_files(model)


def is_catalog(model: str) -> bool:
    """Whether a model is named by the catalog: neither a given graph, nor the user's code, nor a model of a hub."""
    return ":" not in model and factory.kind(model) is not SourceKind.GRAPH


def forget_digests() -> None:
    """Forgets the digests of input files, which may have changed since an earlier sweep of this process."""
    _digest.cache_clear()


@cache
def _digest(path: Path) -> str:
    """The digest of a file's bytes, or of the names, sizes and times of a folder's files; raises BadInput."""
    if path.is_file():
        return serde.file_digest(path)
    if not path.is_dir():
        raise BadInput(f"there is no file or folder {path}", "check the path")
    states = []
    for file in sorted(path.rglob("*")):
        if file.is_file():
            status = file.stat()
            states.append([file.relative_to(path).as_posix(), status.st_size, status.st_mtime_ns])
    return serde.digest(states)
