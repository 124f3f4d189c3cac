"""Lines of the user's model: which one is running now, what stands there, and what a tracer says of it."""

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

_TORCH, _FIXING = Path(torch.__file__).parent, str(Path(__file__).parent)
_OURS, _ZOO, _LAYERS = str(Path(__file__).parents[1]), str(factory.zoo_folder()), str(_TORCH / "nn")
_NOBODYS, _PYTHON = (str(_TORCH), _FIXING, "<"), Path(ast.__file__).parent
_FOREIGN = ("site-packages", "dist-packages")
# how torch's tracer words what it cannot follow: its warnings are all of one class
_SAID = {
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
    """A line of the model, its file as the user knows it; the other way of a `guard` only raises."""

    file: str
    line: int
    source: str
    guard: bool


@contextmanager
def record_tracer_warnings(home: Path | None) -> Iterator[dict[SourceLine, BakedKind]]:
    """Collects what a tracer fixes while it runs, by the lines of the model; every other warning is kept quiet.

    `home` is the folder of the model's own file.
    """
    found: dict[SourceLine, BakedKind] = {}

    def heard(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, torch.jit.TracerWarning):  # type: ignore[attr-defined]  # torch.jit has no types
            what = next((what for words, what in _SAID.items() if words in str(message)), None)
            place = current_line(home)
            if what is not None and place is not None:
                found.setdefault(place, what)

    with warnings.catch_warnings(), _counting(home, found):
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # torch.jit has no types
        warnings.showwarning = heard
        yield found


@contextmanager
def _counting(home: Path | None, found: dict[SourceLine, BakedKind]) -> Iterator[None]:
    """Notes where a size that is traced becomes a count, as in `range(size)`: of that the tracer does not warn."""

    def counted(tensor: torch.Tensor) -> int:
        if torch._C._is_tracing() and (place := current_line(home)) is not None:
            found.setdefault(place, BakedKind.SIZE)
        return usual(tensor)

    usual = torch.Tensor.__index__
    torch.Tensor.__index__ = counted  # type: ignore[assignment, method-assign]  # put back below
    try:
        yield
    finally:
        torch.Tensor.__index__ = usual  # type: ignore[method-assign]  # as it was


def current_line(home: Path | None) -> SourceLine | None:
    """The nearest line of the user's that is running: of the model's own files, else of a library.

    None where it is nobody's: an exporter's own.
    """
    frame: FrameType | None = sys._getframe(1)
    library: FrameType | None = None
    layer: FrameType | None = None  # of torch's own
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_OURS) and not name.startswith((_FIXING, _ZOO)):
            break  # who runs the model is no part of it
        if name.startswith(_LAYERS):
            layer = layer or frame
        elif not name.startswith(_NOBODYS) and Path(name).parent != _PYTHON:
            if not any(part in Path(name).parts for part in _FOREIGN):
                return _place(frame, home)
            library = library or frame
        frame = frame.f_back
    nearest = library or layer
    return _place(nearest, home) if nearest else None


def source_folder(reference: str) -> Path | None:
    """The folder that a factory's file names are relative to: that of its file, or the one its package lies in."""
    where = reference.rpartition(":")[0]
    if where.endswith(".py"):
        return Path(where).resolve().parent
    module = sys.modules.get(where.partition(".")[0])
    file = getattr(module, "__file__", None)
    return Path(file).resolve().parents[1] if file else None


def _place(frame: FrameType, home: Path | None) -> SourceLine:
    name, line = frame.f_code.co_filename, frame.f_lineno
    return SourceLine(_shown(name, home), line, linecache.getline(name, line).strip(), _is_guard(name, line))


def _shown(name: str, home: Path | None) -> str:
    """The file as the user knows it: beside the model's own file, or in a library."""
    path = Path(name).resolve()
    if home is not None and path.is_relative_to(home):
        return path.relative_to(home).as_posix()
    parts = path.parts
    inside = next((parts.index(each) + 1 for each in _FOREIGN if each in parts), len(parts) - 1)
    return "/".join(parts[inside:])


@cache
def _is_guard(name: str, line: int) -> bool:
    """Whether the line asks only to raise where it does not like the answer."""
    try:
        tree = ast.parse("".join(linecache.getlines(name)))
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
