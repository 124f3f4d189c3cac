"""The JSON Schema of report.json, made of the report's own dataclasses, so that the two cannot part."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib import resources
from typing import Any, Union, get_args, get_origin, get_type_hints

from deploytool.results import report
from deploytool.results.report import Report

FILE = "report.schema.json"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: Mapping[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def published() -> str:
    """The schema as it lies in the package."""
    return (resources.files("deploytool.report") / FILE).read_text(encoding="utf-8")


def made() -> str:
    """The schema that follows from the dataclasses as they are now."""
    found: dict[str, dict[str, Any]] = {}
    root = _of(Report, found)
    found["Report"]["properties"]["schema"] = {"const": report.SCHEMA}
    told = {"$schema": _DRAFT, "$id": f"urn:{report.SCHEMA.replace('/', ':')}", "title": "deploytool report.json"}
    document = {**told, **root, "$defs": dict(sorted(found.items()))}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _of(kind: Any, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The schema of a type; dataclasses go to `found` by name, and are referred to."""
    if kind is Any:
        return {}
    if kind is type(None):
        return {"type": "null"}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [each.value for each in kind]}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in found:
            found[kind.__name__] = {}
            found[kind.__name__] = _dataclass(kind, found)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    return _generic(get_origin(kind), get_args(kind), found)


def _generic(origin: Any, inner: tuple[Any, ...], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(each, found) for each in inner]}
    if origin is tuple and inner[1:] == (...,):
        return {"type": "array", "items": _of(inner[0], found)}
    if origin is tuple:
        each = [_of(one, found) for one in inner]
        return {"type": "array", "prefixItems": each, "minItems": len(each), "maxItems": len(each)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(inner[1], found)}
    raise TypeError(f"{origin} has no schema")


def _dataclass(kind: type, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    properties = {field.name: _of(hints[field.name], found) for field in fields(kind)}
    return {
        "type": "object",
        "description": inspect.cleandoc(kind.__doc__ or "").replace("\n\n", " ").replace("\n", " "),
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
