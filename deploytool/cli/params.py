"""Parses the values of options; raises BadInput for an invalid one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fractions import Fraction

from deploytool.errors import BadInput
from deploytool.pipeline import options
from deploytool.spec import BATCH, DTYPES, Fill, ImageSize, Option, Range, Tensor

_FORM = (
    "write [NAME=]3x224x224[:DTYPE[:BELOW]], dynamic dimensions as words; NAME=:DTYPE is one number per case; "
    "mask or range for BELOW is a mask of padding, or positions"
)
_SIDE = r"[1-9]\d*|[A-Za-wyz_]\w*"
_INPUT = re.compile(
    rf"(?:(?P<name>[^=]+)=)?(?P<shape>(?:{_SIDE})(?:x(?:{_SIDE}))*)?(?::(?P<dtype>\w+)(?::(?P<below>[1-9]\d*|mask|range))?)?"
)
_ALIASES = {  # names of our types in torch and other tools
    **{"fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32", "fp64": "float64"},
    **{"double": "float64", "byte": "uint8", "short": "int16", "int": "int64", "long": "int64", "i32": "int32"},
    **{"u8": "uint8", "i8": "int8", "i64": "int64", "f16": "float16", "f32": "float32", "boolean": "bool"},
}


def span(option: str, text: str, separator: str = " ") -> Range:
    """Parses `N` or `SMALLEST:TYPICAL:LARGEST`; `separator` is what the command line has between option and range."""
    sizes = text.split(":")
    if len(sizes) not in (1, 3) or not all(size.isdecimal() for size in sizes):
        given = f"{option}{separator}"
        raise BadInput(f"{given}{text} is not a size", f"write {given}8, or {given}1:8:32")
    smallest, typical, largest = map(int, sizes * 3 if len(sizes) == 1 else sizes)
    return options.size_range(option, (smallest, typical, largest))


def batch(texts: Sequence[str]) -> Range:
    """Parses the batch sizes of an engine, one size or range; raises BadInput for several, with a range of all."""
    parts = [part for text in texts for part in text.split(",")]
    if len(parts) == 1:
        return span("--batch", parts[0])
    ranges = [span("--batch", part.strip()) for part in parts]
    sizes = sorted(size for each in ranges for size in (each.smallest, each.typical, each.largest))
    covering = f"{sizes[0]}:{sizes[len(sizes) // 2]}:{sizes[-1]}"
    problem = f"--batch takes one size or one range, not {' and '.join(part.strip() for part in parts)}"
    raise BadInput(problem, f"write --batch {covering}: one engine takes all sizes from {sizes[0]} to {sizes[-1]}")


def tensors(texts: Sequence[str]) -> tuple[Tensor, ...]:
    """Parses the inputs, in order; raises BadInput for duplicate names."""
    return options.tensors([_tensor(text, number) for number, text in enumerate(texts)])


def _tensor(text: str, number: int) -> Tensor:
    """Parses `[NAME=]3x224x224[:DTYPE[:BELOW]]`, a shape without the batch; a word is a dynamic dimension.

    A name or a type without a shape is one number per case, of shape (batch,).
    """
    match = _INPUT.fullmatch(text)
    if match is None or not (match["shape"] or match["name"] or match["dtype"]):
        intended = _intended(text)
        raise BadInput(f"--input {text} is not an input", f"write --input {intended}" if intended else _FORM)
    dtype = match["dtype"] or "float32"
    if dtype not in DTYPES:
        intended = _intended(text)
        remedy = f"write --input {intended}" if intended else f"choose from {', '.join(DTYPES)}"
        raise BadInput(f"--input {text} has an invalid type", remedy)
    fill = Fill(match["below"]) if match["below"] in tuple(Fill) else Fill.RANDOM
    below = int(match["below"]) if match["below"] and fill is Fill.RANDOM else options.below(dtype)
    sides = match["shape"].split("x") if match["shape"] else []
    default_name = f"input_{number}" if number else "input"
    name = default_name if match["name"] is None else match["name"]
    return Tensor(name, (BATCH, *(int(side) if side.isdecimal() else side for side in sides)), dtype, below, fill)


def _intended(text: str) -> str | None:
    """Translates a declaration in another tool's syntax; None where that is impossible."""
    name, equals, rest = text.replace(" ", "").rpartition("=")
    shape, *types = re.sub(r"torch\.|np\.|numpy\.", "", rest).split(":")
    if types and not equals and re.fullmatch(r"[A-Za-z_]\w*", shape) and re.match(r"[\d(\[]", types[0]):
        name, equals, (shape, *types) = shape, "=", types  # NAME:3x224x224, as in trtexec and Polygraphy
    shape = re.sub(r"[,×*X]", "x", shape.strip("()[],"))
    shape = re.sub(r"^(-1|\?|batch|N|None)x", "", shape)  # the batch, which a declaration omits
    types = [_ALIASES.get(name.lower(), name.lower()) for name in types]
    declaration = name + equals + ":".join([shape, *types])
    match = _INPUT.fullmatch(declaration)
    is_valid = match and (match["dtype"] or "float32") in DTYPES and (match["shape"] or match["name"])
    return declaration if is_valid and declaration != text else None


def sizes(texts: Sequence[str]) -> dict[str, Range | tuple[Range, ...]]:
    """Parses `WORD=SMALLEST:TYPICAL:LARGEST` for each dynamic dimension; several of one word are its profiles."""
    found: dict[str, tuple[Range, ...]] = {}
    for text in texts:
        ((word, value),) = _pairs("--size", [text], "H=8, or H=1:8:32")
        found[word] = (*found.get(word, ()), span(f"--size {word}", value, "="))
    return {word: ranges[0] if len(ranges) == 1 else ranges for word, ranges in found.items()}


def arguments(texts: Sequence[str]) -> dict[str, Option]:
    """Parses the factory's arguments: `NAME=VALUE`, a JSON number, string, true, false or null, otherwise a string."""
    return _values("--arg", texts)


def forward_arguments(texts: Sequence[str]) -> dict[str, Option]:
    """Parses the arguments of `forward`, as those of the factory."""
    return _values("--forward", texts)


def decoding(texts: Sequence[str]) -> dict[str, Option]:
    """Parses how outputs become boxes, as the arguments of the factory."""
    return _values("--decode", texts)


def _values(option: str, texts: Sequence[str]) -> dict[str, Option]:
    options: dict[str, Option] = {}
    for name, value in _pairs(option, texts, "NAME=VALUE"):
        try:
            decoded = json.loads(value)
        except ValueError:
            decoded = value
        options[name] = decoded if isinstance(decoded, (bool, int, float, str)) or decoded is None else value
    return options


def tolerances(texts: Sequence[str]) -> dict[str, float]:
    """Parses `fp32=ERROR` and `fp16=ERROR`: the largest errors to allow, relative to the largest output."""
    return options.tolerance(dict(_pairs("--tolerance", texts, "fp16=2e-3, or fp32=1e-5")))


def floors(texts: Sequence[str]) -> dict[str, str]:
    """Parses `ort=1.20` and `trt=10.3`: the oldest version of a runtime."""
    return dict(_pairs("--floor", texts, "ort=1.20"))


def names(texts: Sequence[str]) -> str:
    """The names of every text, in one text with commas."""
    return ",".join(texts)


def _pairs(option: str, texts: Sequence[str], form: str) -> list[tuple[str, str]]:
    """The name and the value in each `NAME=VALUE`; a name that is given twice is refused."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise BadInput(f"{option} {text} is not a name with a value", f"write {option} {form}")
        if name in found:
            raise BadInput(f"{option} gives {name} twice: {found[name]} and {value}", "leave out one of them")
        found[name] = value
    return [*found.items()]


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Parses `0.5` or `0.485,0.456,0.406`; fractions such as `1/255` are allowed."""
    if text is None:
        return None
    try:
        return tuple(map(_number, text.split(",")))
    except (ValueError, ZeroDivisionError, OverflowError):
        remedy = f"write {option} 0.5, or one number per channel: 0.5,0.5,0.5"
        raise BadInput(f"{option} {text} is not a number", remedy) from None


def _number(text: str) -> float:
    return float(Fraction(text.strip()))


def scale(text: str) -> float:
    """Parses one factor, such as `1/255`."""
    try:
        return _number(text)
    except (ValueError, ZeroDivisionError, OverflowError):
        remedy = "write one: --scale 1/255, and give those per channel with --std"
        raise BadInput(f"--scale {text} is not one factor", remedy) from None


def side(option: str, text: str | None) -> ImageSize | None:
    """Parses a length `256`, a height and width `256x512`, or `none`, which is 0."""
    if text is None or text == "none":
        return None if text is None else 0
    sides = text.split("x")
    if len(sides) > 2 or not all(re.fullmatch(r"[1-9]\d{0,5}", length) for length in sides):
        raise BadInput(f"{option} {text} is not a size", f"write {option} 256, {option} 256x512 or {option} none")
    return int(text) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
