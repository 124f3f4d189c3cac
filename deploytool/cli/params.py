"""What the user asked for, from words on the command line to plain data; a wrong word gets one clear line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fractions import Fraction

from deploytool.errors import BadInput
from deploytool.pipeline import options
from deploytool.spec import BATCH, DTYPES, ImageSize, Option, Precision, Range, Tensor

_FORM = "write [NAME=]3x224x224[:DTYPE[:BELOW]], free sizes as words; NAME=:DTYPE is one number a case"
_SIDE = r"[1-9]\d*|[A-Za-wyz_]\w*"
_INPUT = re.compile(
    rf"(?:(?P<name>[^=]*)=)?(?P<shape>(?:{_SIDE})(?:x(?:{_SIDE}))*)?(?::(?P<dtype>\w+)(?::(?P<below>[1-9]\d*))?)?"
)
_SAME = {  # what other tools and torch itself call our types
    **{"fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32", "fp64": "float64"},
    **{"double": "float64", "byte": "uint8", "short": "int16", "int": "int64", "long": "int64", "i32": "int32"},
    **{"u8": "uint8", "i8": "int8", "i64": "int64", "f16": "float16", "f32": "float32", "boolean": "bool"},
}


def span(option: str, text: str) -> Range:
    """The range that `N` or `SMALLEST:TYPICAL:LARGEST` names."""
    sizes = text.split(":")
    if len(sizes) not in (1, 3) or not all(size.isdecimal() for size in sizes):
        raise BadInput(f"{option} {text} is no size", f"write {option} 8, or {option} 1:8:32")
    smallest, typical, largest = map(int, sizes * 3 if len(sizes) == 1 else sizes)
    return options.size_range(option, (smallest, typical, largest))


def tensors(texts: Sequence[str]) -> tuple[Tensor, ...]:
    """The inputs in their order; no two may bear one name."""
    return options.tensors([_tensor(text, number) for number, text in enumerate(texts)])


def _tensor(text: str, number: int) -> Tensor:
    """The input that `[NAME=]3x224x224[:DTYPE[:BELOW]]` declares, the batch left out; a word is a free size.

    With a name or a type and no size it is one number a case, of shape (batch,).
    """
    found = _INPUT.fullmatch(text)
    if found is None or not (found["shape"] or found["name"] or found["dtype"]):
        meant = _meant(text)
        raise BadInput(f"--input {text} is no input", f"write --input {meant}" if meant else _FORM)
    dtype = found["dtype"] or "float32"
    if dtype not in DTYPES:
        meant = _meant(text)
        remedy = f"write --input {meant}" if meant else f"choose from {', '.join(DTYPES)}"
        raise BadInput(f"--input {text} has no type we know", remedy)
    below = options.below(dtype) if found["below"] is None else int(found["below"])
    sides = found["shape"].split("x") if found["shape"] else []
    usual = f"input_{number}" if number else "input"
    name = usual if found["name"] is None else found["name"]
    return Tensor(name, (BATCH, *(int(side) if side.isdecimal() else side for side in sides)), dtype, below)


def _meant(text: str) -> str | None:
    """The declaration that a text in another tool's spelling means, where that is plain."""
    name, equals, rest = text.replace(" ", "").rpartition("=")
    shape, *types = re.sub(r"torch\.|np\.|numpy\.", "", rest).split(":")
    if types and not equals and re.fullmatch(r"[A-Za-z_]\w*", shape) and re.match(r"[\d(\[]", types[0]):
        name, equals, (shape, *types) = shape, "=", types  # NAME:3x224x224, as trtexec and polygraphy have it
    shape = re.sub(r"[,×*X]", "x", shape.strip("()[],"))
    shape = re.sub(r"^(-1|\?|batch|N|None)x", "", shape)  # the batch, which is left out here
    types = [_SAME.get(each.lower(), each.lower()) for each in types]
    meant = name + equals + ":".join([shape, *types])
    found = _INPUT.fullmatch(meant)
    known = found and (found["dtype"] or "float32") in DTYPES and (found["shape"] or found["name"])
    return meant if known and meant != text else None


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
        if name not in tuple(Precision) or not 0 < found[name] <= 1:
            raise BadInput(f"--tolerance {text} is no tolerance", "write --tolerance fp16=2e-3, or fp32=1e-5")
    return found


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """The numbers that `0.5` or `0.485,0.456,0.406` names, fractions such as `1/255` too."""
    if text is None:
        return None
    try:
        return tuple(float(Fraction(each.strip())) for each in text.split(","))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise BadInput(f"{option} {text} is no number", f"write {option} 0.5, or 0.5,0.5,0.5: one a channel") from None


def scale(text: str | None) -> float | None:
    """The one factor that `1/255` names."""
    found = numbers("--scale", text)
    if found is not None and len(found) != 1:
        raise BadInput(f"--scale {text} is more than one factor", "write one: --scale 1/255, and the rest with --std")
    return found[0] if found else None


def side(option: str, text: str | None) -> ImageSize | None:
    """The length that `256` names, the height and width of `256x512`, and 0 of `none`."""
    if text is None or text == "none":
        return None if text is None else 0
    sides = text.split("x")
    if len(sides) > 2 or not all(re.fullmatch(r"[1-9]\d{0,5}", each) for each in sides):
        raise BadInput(f"{option} {text} is no size", f"write {option} 256, {option} 256x512 or {option} none")
    return int(text) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
