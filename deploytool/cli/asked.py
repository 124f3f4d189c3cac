"""What the user asked for, from words on the command line to plain data; a wrong word gets one clear line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from deploytool import wishes
from deploytool.errors import BadInput
from deploytool.spec import AUTO, BATCH, Option, Range, Tensor

_DTYPES = ("float32", "float64", "float16", "int64", "int32", "bool")


def span(option: str, text: str) -> Range:
    """The range that `N` or `SMALLEST:TYPICAL:LARGEST` names."""
    sizes = text.split(":")
    if len(sizes) not in (1, 3) or not all(size.isdecimal() for size in sizes):
        raise BadInput(f"{option} {text} is no size", f"write {option} 8, or {option} 1:8:32")
    smallest, typical, largest = map(int, sizes * 3 if len(sizes) == 1 else sizes)
    return wishes.span(option, (smallest, typical, largest))


def tensors(texts: Sequence[str]) -> tuple[Tensor, ...]:
    """The inputs in their order; no two may bear one name."""
    return wishes.tensors([_tensor(text, number) for number, text in enumerate(texts)])


def _tensor(text: str, number: int) -> Tensor:
    """The input that `[NAME=]3x224x224[:DTYPE[:BELOW]]` declares, the batch left out; a word is a free size."""
    name, equals, rest = text.rpartition("=")
    shape, dtype, below, *more = [*rest.split(":"), "", ""][: max(3, rest.count(":") + 1)]
    sides = shape.split("x")
    if more or not all(re.fullmatch(r"[1-9]\d*|[A-Za-wyz_]\w*", side) for side in sides):
        raise BadInput(f"--input {text} is no input", "write [NAME=]3x224x224[:DTYPE[:BELOW]], free sizes as words")
    if (dtype or "float32") not in _DTYPES or not (below or "2").isdecimal() or int(below or 2) < 1:
        raise BadInput(f"--input {text} has no type we know", f"choose from {', '.join(_DTYPES)}")
    usual = f"input_{number}" if number else "input"
    dims = (int(side) if side.isdecimal() else side for side in sides)
    return Tensor(name if equals else usual, (BATCH, *dims), dtype or "float32", int(below or 2))


def sizes(texts: Sequence[str]) -> dict[str, Range]:
    """The range that each `WORD=SMALLEST:TYPICAL:LARGEST` names."""
    return {word: span(f"--size {word}", text) for word, _, text in (each.partition("=") for each in texts)}


def arguments(texts: Sequence[str]) -> dict[str, Option]:
    """The factory's arguments: `NAME=VALUE`, where a value is a JSON number, true, false or null, or else a string."""
    found: dict[str, Option] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise BadInput(f"--arg {text} is no argument", "write NAME=VALUE")
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        found[name] = read if isinstance(read, (bool, int, float, str)) or read is None else value
    return found


def tolerances(texts: Sequence[str]) -> dict[str, float]:
    """The largest errors, relative to the largest output, that `fp32=ERROR` and `fp16=ERROR` allow."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = -1.0
        if name not in ("fp32", "fp16") or not 0 < found[name] <= 1:
            raise BadInput(f"--tolerance {text} is no tolerance", "write --tolerance fp16=2e-3, or fp32=1e-5")
    return found


def kept(text: str) -> tuple[str, ...]:
    """The modules and nodes that `--keep-fp32 auto` or `--keep-fp32 stage2.0,classifier` names."""
    names = tuple(name for name in (each.strip() for each in text.split(",")) if name)
    if AUTO in names and len(names) > 1:
        raise BadInput(f"--keep-fp32 {text} asks for a search and names what it should find", "write one of the two")
    return names
