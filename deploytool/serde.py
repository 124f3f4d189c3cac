"""Turns frozen dataclasses into JSON, back again, and into one digest."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
else:
    Json = Any  # `decode` reads hints at run time, and takes such values as they are
T = TypeVar("T")

MAX_BYTES = 64 << 20  # bytes of a document
_HALF = re.compile("[\ud800-\udfff]")
_LARGEST, _DEEPEST = sys.float_info.max, 100  # a number, and objects in objects
_DEEP = "it is nested too deep"
_SHOWN = 60  # characters of a value in a message


def encode(value: object) -> Json:
    """A dataclass, and whatever it holds, as plain JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return encode(value.value)
    if isinstance(value, Mapping):
        return {str(name): encode(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} has no plain form")


class Malformed(ValueError):
    """A document that is not what it should be; the text says where and why."""


def loads(raw: str | bytes, max_bytes: int = MAX_BYTES) -> Any:
    """The JSON value of a text; raises Malformed if it is none, is longer than `max_bytes`, or is nested too deep.

    NaN and infinity are no JSON, and neither is an object that has a name twice.
    """
    if len(raw) > max_bytes:
        raise Malformed(f"it is longer than {max_bytes} bytes")
    try:
        found = json.loads(raw, parse_float=_number, parse_constant=_number, object_pairs_hook=_once)
    except RecursionError:
        raise Malformed(_DEEP) from None
    except ValueError as error:
        raise Malformed(f"it is no JSON: {error}") from None
    level = [found]
    for _ in range(_DEEPEST):
        level = [each for one in level for each in _inside(one)]
        if not level:
            return found
    raise Malformed(_DEEP)


def decode(cls: type[T], data: object) -> T:
    """The `cls` that `encode` made `data` from.

    Every value must have the type that its field declares; raises Malformed where one has another.
    """
    try:
        return _decode(cls, data, "")  # type: ignore[no-any-return]  # built from `cls` itself
    except RecursionError:
        raise Malformed(_DEEP) from None


def read(cls: type[T], path: Path, max_bytes: int = MAX_BYTES) -> T:
    """The `cls` in a file of JSON; raises Malformed if the file is something else, and OSError if there is none."""
    with path.open("rb") as opened:
        return decode(cls, loads(opened.read(max_bytes + 1), max_bytes))


def _inside(value: Any) -> list[Any]:
    """The objects and lists in one."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in inner if isinstance(each, (dict, list))]


def _number(text: str) -> float:
    """A number with a point or a power; what is too large to be one is none, and neither are NaN and infinity."""
    if not math.isfinite(found := float(text)):
        raise Malformed(f"{text} is no number")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Malformed("an object has a name twice")
    return found


def _decode(kind: Any, data: Any, where: str) -> Any:
    if kind is Any:
        return data
    if is_dataclass(kind) and isinstance(kind, type):
        return _fields(kind, data, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(inner, data, where)
    if origin is tuple:
        _expect(isinstance(data, (list, tuple)), data, where, "a list")
        each = inner[:1] * len(data) if inner[1:] == (...,) else inner
        _expect(len(each) == len(data), data, where, f"{len(each)} values")
        return tuple(_decode(one, item, f"{where}[{n}]") for n, (one, item) in enumerate(zip(each, data, strict=True)))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _expect(isinstance(data, Mapping), data, where, "an object")
        _expect(all(isinstance(name, str) for name in data), data, where, "an object with names")
        return {name: _decode(inner[1], item, _below(where, name)) for name, item in data.items()}
    return _leaf(kind, data, where)


def _fields(kind: Any, data: Any, where: str) -> Any:
    _expect(isinstance(data, Mapping), data, where, "an object")
    hints = _hints(kind)
    missing = next((field.name for field in fields(kind) if field.name not in data), None)
    if missing is not None:
        raise Malformed(f"{_below(where, missing)} is missing")
    return kind(**{name: _decode(hints[name], data[name], _below(where, name)) for name in hints})


def _one_of(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    """What fits one of several types; of several dataclasses there must be but one."""
    compound = [kind for kind in kinds if is_dataclass(kind) or get_origin(kind) is not None]
    for kind in kinds:
        if kind not in compound and (kind is Any or _fits(kind, data)):
            return _taken(kind, data)
    _expect(bool(compound), data, where, " or ".join(_spoken(kind) for kind in kinds))
    return _decode(compound[0], data, where)


def _leaf(kind: Any, data: Any, where: str) -> Any:
    _expect(_fits(kind, data), data, where, _spoken(kind))
    return _taken(kind, data)


def _taken(kind: Any, data: Any) -> Any:
    """A value that fits, as its type has it."""
    return kind(data) if _is_enum(kind) else data


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _fits(kind: Any, data: Any) -> bool:
    """Whether a value is of a type that JSON has; a whole number will do for any other."""
    if kind is type(None) or kind is None:
        return data is None
    if kind is float:
        return type(data) in (int, float) and -_LARGEST <= data <= _LARGEST
    if _is_enum(kind):
        return isinstance(data, (str, int)) and data in [member.value for member in kind]
    return type(data) is kind


def _spoken(kind: Any) -> str:
    if _is_enum(kind):
        return f"one of {', '.join(str(member.value) for member in kind)}"
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    return names.get(kind, "something else")


def _expect(right: bool, data: Any, where: str, what: str) -> None:
    if not right:
        shown = repr(data)[:_SHOWN]
        raise Malformed(f"{where or 'it'} is {shown}, and should be {what}")


def _below(where: str, name: str) -> str:
    shown = name if name.isprintable() else ascii(name)
    return f"{where}.{shown[:_SHOWN]}" if where else shown[:_SHOWN]


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, worked out once for all that is decoded."""
    return get_type_hints(kind)


def text(value: object) -> str:
    """`value` as readable JSON, always the same bytes for the same value.

    A byte of a file's name that is no UTF-8, which Python has as half a letter, is escaped: such a text is a file too.
    """
    made = json.dumps(encode(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    return _HALF.sub(lambda found: f"\\u{ord(found[0]):04x}", made)


def digest(*values: object) -> str:
    """One SHA-256 for all `values`: the name of a result that depends on them and on nothing else."""
    return hashlib.sha256(json.dumps(encode(values), sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
