"""Lines of the user's model: which one runs now, its source, and which ones a tracer warns about."""

from __future__ import annotations

import ast
import linecache
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TextIO

import torch

from deploytool.loading import factory
from deploytool.results.baked_values import BakedKind

_TORCH, _THIS_PACKAGE = Path(torch.__file__).parent, str(Path(__file__).parent)
_DEPLOYTOOL, _ZOO, _TORCH_NN = str(Path(__file__).parents[1]), str(factory.zoo_folder()), str(_TORCH / "nn")
_SKIPPED, _PYTHON = (str(_TORCH), _THIS_PACKAGE, "<"), Path(ast.__file__).parent
_INSTALLED = ("site-packages", "dist-packages")
# TracerWarning has no subclasses: the message tells what the tracer cannot follow
_KIND_BY_MESSAGE = {
    "Python boolean": BakedKind.BRANCH,
    "Python index": BakedKind.SIZE,
    "Python integer": BakedKind.SIZE,
    "Python number": BakedKind.VALUE,
    "Python float": BakedKind.VALUE,
    "Python list": BakedKind.VALUE,
    "NumPy array": BakedKind.VALUE,
    "Using len": BakedKind.SIZE,
    "Iterating over": BakedKind.SIZE,
    "registered as constants": BakedKind.VALUE,
}


@dataclass(frozen=True)
class SourceLine:
    """A line of the model's source.

    file: relative to the folder of the model's own file. guard: whether the line is a condition whose other branch
    only raises.
    """

    file: str
    line: int
    source: str
    guard: bool


@contextmanager
def record_tracer_warnings(home: Path | None) -> Iterator[dict[SourceLine, BakedKind]]:
    """Collects the lines of the model that a tracer bakes in while the context is open; silences other warnings.

    home: the folder of the model's own file.
    """
    lines: dict[SourceLine, BakedKind] = {}

    def record(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, torch.jit.TracerWarning):  # type: ignore[attr-defined]  # torch.jit has no types
            kind = next((kind for words, kind in _KIND_BY_MESSAGE.items() if words in str(message)), None)
            running = current_line(home)
            if kind is not None and running is not None:
                lines.setdefault(running, kind)

    with warnings.catch_warnings(), _record_index_conversions(home, lines):
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # torch.jit has no types
        warnings.showwarning = record
        yield lines


@contextmanager
def _record_index_conversions(home: Path | None, lines: dict[SourceLine, BakedKind]) -> Iterator[None]:
    """Records where a traced size becomes a Python index, as in `range(size)`: the tracer does not warn about it."""

    def index(tensor: torch.Tensor) -> int:
        if torch._C._is_tracing() and (running := current_line(home)) is not None:
            lines.setdefault(running, BakedKind.SIZE)
        return original(tensor)

    original = torch.Tensor.__index__
    torch.Tensor.__index__ = index  # type: ignore[assignment, method-assign]  # restored below
    try:
        yield
    finally:
        torch.Tensor.__index__ = original  # type: ignore[method-assign]  # as it was


def current_line(home: Path | None) -> SourceLine | None:
    """The innermost running line of the model: of the user's own files if there is one, else of a library.

    None if only this tool, torch or Python is running.
    """
    frame: FrameType | None = sys._getframe(1)
    library_frame: FrameType | None = None
    layer_frame: FrameType | None = None  # in torch.nn
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_DEPLOYTOOL) and not path.startswith((_THIS_PACKAGE, _ZOO)):
            break  # the caller of the model is not part of it
        if path.startswith(_TORCH_NN):
            layer_frame = layer_frame or frame
        elif not path.startswith(_SKIPPED) and Path(path).parent != _PYTHON:
            if not any(part in Path(path).parts for part in _INSTALLED):
                return _source_line(frame, home)
            library_frame = library_frame or frame
        frame = frame.f_back
    innermost = library_frame or layer_frame
    return _source_line(innermost, home) if innermost else None


def source_folder(reference: str) -> Path | None:
    """The folder that the file names of a factory are relative to: that of its file, or the parent of its package."""
    path_or_module = reference.rpartition(":")[0]
    if path_or_module.endswith(".py"):
        return Path(path_or_module).resolve().parent
    module = sys.modules.get(path_or_module.partition(".")[0])
    file = getattr(module, "__file__", None)
    return Path(file).resolve().parents[1] if file else None


def _source_line(frame: FrameType, home: Path | None) -> SourceLine:
    path, line = frame.f_code.co_filename, frame.f_lineno
    return SourceLine(_display_path(path, home), line, linecache.getline(path, line).strip(), _is_guard(path, line))


def _display_path(file: str, home: Path | None) -> str:
    """The file relative to `home`, or to the folder of installed packages."""
    path = Path(file).resolve()
    if home is not None and path.is_relative_to(home):
        return path.relative_to(home).as_posix()
    parts = path.parts
    start = next((parts.index(folder) + 1 for folder in _INSTALLED if folder in parts), len(parts) - 1)
    return "/".join(parts[start:])


@cache
def _is_guard(path: str, line: int) -> bool:
    """Whether the line is the condition of an assert, or of an if statement that raises."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and _spans(node.test, line):
            return True
        if isinstance(node, ast.If) and _spans(node.test, line):
            return isinstance(node.body[-1], ast.Raise)
    return False


def _spans(node: ast.expr, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)
