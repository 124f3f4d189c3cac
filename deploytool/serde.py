"""Encodes frozen dataclasses as JSON, decodes them with type checks, and computes digests."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
else:
    Json = Any  # `decode` reads type hints at run time, and accepts any value here
T = TypeVar("T")

MAX_BYTES = 64 << 20  # of a document
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_INTEGER = 2**63 - 1
_TYPE_TEXTS = {
    str: "a string",
    int: "an integer of 64 bits",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_MAX_NUMBER, _MAX_DEPTH = sys.float_info.max, 100  # of a number, of nested objects and lists
_TOO_DEEP = "it is nested too deep"
_MAX_SHOWN = 60  # characters of a value in a message


def encode(value: object) -> Json:
    """A dataclass, with its nested values, as JSON values; raises TypeError for other types.

    A field whose metadata has `omitted` is left out if it has its default value: older readers then know all fields.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {name: encode(item) for name, item in _written(value)}
    if isinstance(value, Enum):
        return encode(value.value)
    if isinstance(value, Mapping):
        return {str(name): encode(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} cannot be encoded as JSON")


def _written(value: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a dataclass that are encoded."""
    for field in fields(value):
        item = getattr(value, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if not (field.metadata.get("omitted") and item == default):
            yield field.name, item


class Malformed(ValueError):
    """A document is not valid JSON or has unexpected types; the message gives the path and the reason."""


def loads(raw: str | bytes, max_bytes: int = MAX_BYTES) -> Any:
    """Parses JSON; raises Malformed if it is invalid, longer than `max_bytes` or nested too deep.

    NaN, infinity and duplicate keys in an object are invalid.
    """
    if len(raw) > max_bytes:
        raise Malformed(f"it is longer than {max_bytes} bytes")
    try:
        value = json.loads(raw, parse_float=_number, parse_constant=_number, object_pairs_hook=_object)
    except RecursionError:
        raise Malformed(_TOO_DEEP) from None
    except ValueError as error:
        raise Malformed(f"it is not JSON: {error}") from None
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [child for parent in level for child in _containers(parent)]
        if not level:
            return value
    raise Malformed(_TOO_DEEP)


def decode(cls: type[T], data: object) -> T:
    """The `cls` for JSON values from `encode`; raises Malformed if a value has another type than its field declares."""
    try:
        return _decode(cls, data, "")  # type: ignore[no-any-return]  # `_decode` returns an instance of `cls`
    except RecursionError:
        raise Malformed(_TOO_DEEP) from None


def read(cls: type[T], path: Path, max_bytes: int = MAX_BYTES) -> T:
    """The `cls` in a JSON file; raises Malformed if its content does not match, and OSError if it cannot be read."""
    with path.open("rb") as file:
        return decode(cls, loads(file.read(max_bytes + 1), max_bytes))


def _containers(value: Any) -> list[Any]:
    """The objects and lists directly inside a value."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, (dict, list))]


def _number(text: str) -> float:
    """A number with a fraction or exponent; raises Malformed for NaN, infinity and numbers beyond the range."""
    if not math.isfinite(number := float(text)):
        raise Malformed(f"{text} is not a finite number")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The dict of an object's pairs; raises Malformed for duplicate keys."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise Malformed("an object has a duplicate key")
    return values


def _decode(kind: Any, data: Any, where: str) -> Any:
    if kind is Any:
        return data
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, data, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(inner, data, where)
    if origin is tuple:
        _expect(isinstance(data, (list, tuple)), data, where, "a list")
        kinds = inner[:1] * len(data) if inner[1:] == (...,) else inner
        _expect(len(kinds) == len(data), data, where, f"{len(kinds)} values")
        return tuple(
            _decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, data, strict=True))
        )
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _expect(isinstance(data, Mapping), data, where, "an object")
        _expect(all(isinstance(name, str) for name in data), data, where, "an object with string keys")
        return {name: _decode(inner[1], item, _child(where, name)) for name, item in data.items()}
    return _scalar(kind, data, where)


def _dataclass(kind: Any, data: Any, where: str) -> Any:
    _expect(isinstance(data, Mapping), data, where, "an object")
    hints = _hints(kind)
    missing = [field for field in fields(kind) if field.name not in data]
    required = next((field.name for field in missing if not field.metadata.get("optional")), None)
    if required is not None:
        raise Malformed(f"{_child(where, required)} is missing")
    return kind(**{name: _decode(hints[name], data[name], _child(where, name)) for name in hints if name in data})


def _one_of(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    """A value of a union; at most one of its types may be a dataclass or container."""
    compound = [kind for kind in kinds if is_dataclass(kind) or get_origin(kind) is not None]
    for kind in kinds:
        if kind not in compound and (kind is Any or _matches(kind, data)):
            return _convert(kind, data)
    _expect(bool(compound), data, where, " or ".join(_type_text(kind) for kind in kinds))
    return _decode(compound[0], data, where)


def _scalar(kind: Any, data: Any, where: str) -> Any:
    _expect(_matches(kind, data), data, where, _type_text(kind))
    return _convert(kind, data)


def _convert(kind: Any, data: Any) -> Any:
    """A value as its type: a member of an enum, or the value itself."""
    return kind(data) if _is_enum(kind) else data


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _matches(kind: Any, data: Any) -> bool:
    """Whether a JSON value is of a scalar type; an integer is also a float."""
    if kind is type(None) or kind is None:
        return data is None
    if kind is float:
        return type(data) in (int, float) and -_MAX_NUMBER <= data <= _MAX_NUMBER
    if kind is int:
        return type(data) is int and -_MAX_INTEGER <= data <= _MAX_INTEGER
    if _is_enum(kind):
        return isinstance(data, (str, int)) and data in [member.value for member in kind]
    return type(data) is kind


def _type_text(kind: Any) -> str:
    if _is_enum(kind):
        return f"one of {', '.join(str(member.value) for member in kind)}"
    names = {
        str: "a string",
        int: "an integer of 64 bits",
        float: "a number",
        bool: "true or false",
        type(None): "null",
    }
    return names.get(kind, "of another type")


def _expect(valid: bool, data: Any, where: str, what: str) -> None:
    if not valid:
        shown = repr(data)[:_MAX_SHOWN]
        raise Malformed(f"{where or 'it'} is {shown}, and should be {what}")


def _child(where: str, name: str) -> str:
    """The path of a field or key of the value at `where`."""
    shown = name if name.isprintable() else ascii(name)
    return f"{where}.{shown[:_MAX_SHOWN]}" if where else shown[:_MAX_SHOWN]


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return get_type_hints(kind)


def text(value: object) -> str:
    """A value as indented JSON; equal values give equal text.

    Surrogates, by which Python represents bytes of file names that are not UTF-8, are escaped.
    """
    document = json.dumps(encode(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


def digest(*values: object) -> str:
    """The SHA-256 of all `values`, encoded as JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(encode(values), sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
