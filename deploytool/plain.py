"""Turns frozen dataclasses into JSON, back again, and into one digest."""

from __future__ import annotations

import hashlib
import json
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


def decode(cls: type[T], data: object) -> T:
    """The `cls` that `encode` made `data` from.

    Raises TypeError, KeyError or ValueError if `data` is something else.
    """
    return _decode(cls, data)  # type: ignore[no-any-return]  # built from `cls` itself


def _decode(kind: Any, data: Any) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        return kind(**{field.name: _decode(hints[field.name], data[field.name]) for field in fields(kind)})
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        each = inner[:1] * len(data) if inner[1:] == (...,) else inner
        return tuple(_decode(one, item) for one, item in zip(each, data, strict=True))
    if origin in (Union, types.UnionType) and any(is_dataclass(one) for one in inner):
        return None if data is None else _decode(next(one for one in inner if is_dataclass(one)), data)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {str(name): _decode(inner[1], item) for name, item in data.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(data)
    return data


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, worked out once for all that is decoded."""
    return get_type_hints(kind)


def text(value: object) -> str:
    """`value` as readable JSON, always the same bytes for the same value."""
    return json.dumps(encode(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


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
