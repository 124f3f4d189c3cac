"""Generates the JSON Schemas of report.json and sweep.json from the dataclasses of a report and of a sweep."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib import resources
from typing import Any, Union, get_args, get_origin, get_type_hints

from deploytool.results import report, sweep
from deploytool.results.report import Report
from deploytool.results.sweep import Sweep

FILE, SWEEP_FILE = "report.schema.json", "sweep.schema.json"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS: Mapping[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}

_Definitions = dict[str, dict[str, Any]]  # schema of each dataclass, by name


def published(file: str = FILE) -> str:
    """A schema file in the package."""
    return (resources.files("deploytool.report") / file).read_text(encoding="utf-8")


def generate() -> str:
    """The schema of the present dataclasses of a report, as JSON text."""
    return _generate(Report, report.SCHEMA, "report.json")


def generate_sweep() -> str:
    """The schema of the present dataclasses of a sweep, as JSON text."""
    return _generate(Sweep, sweep.SCHEMA, sweep.FILE)


def _generate(kind: type, version: str, file: str) -> str:
    definitions: _Definitions = {}
    root = _schema(kind, definitions)
    definitions[kind.__name__]["properties"]["schema"] = {"const": version}
    header = {"$schema": _DRAFT, "$id": f"urn:{version.replace('/', ':')}", "title": f"deploytool {file}"}
    document = {**header, **root, "$defs": dict(sorted(definitions.items()))}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _schema(kind: Any, definitions: _Definitions) -> dict[str, Any]:
    """The schema of a type; that of a dataclass goes to `definitions`, and a reference is returned."""
    if kind is Any:
        return {}
    if kind is type(None):
        return {"type": "null"}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    if kind in _SCALARS:
        return {"type": _SCALARS[kind]}
    if is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}
            definitions[kind.__name__] = _dataclass_schema(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    return _generic_schema(get_origin(kind), get_args(kind), definitions)


def _generic_schema(origin: Any, arguments: tuple[Any, ...], definitions: _Definitions) -> dict[str, Any]:
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(argument, definitions) for argument in arguments]}
    if origin is tuple and arguments[1:] == (...,):
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is tuple:
        items = [_schema(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    raise TypeError(f"{origin} has no schema")


def _dataclass_schema(kind: type, definitions: _Definitions) -> dict[str, Any]:
    hints = get_type_hints(kind)
    properties = {field.name: _schema(hints[field.name], definitions) for field in fields(kind)}
    return {
        "type": "object",
        "description": inspect.cleandoc(kind.__doc__ or "").replace("\n\n", " ").replace("\n", " "),
        "properties": properties,
        "required": [field.name for field in fields(kind) if not field.metadata.get("omitted")],
        "additionalProperties": False,
    }
