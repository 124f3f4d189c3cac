"""Options of an export as JSON, in which they travel to a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.pipeline.export_options import DECLARATIONS, ExportOptions
from deploytool.serde import Json
from deploytool.spec import Range, Tensor

_DEFAULT = ExportOptions()
_RANGE, _TENSOR = set(Range.__dataclass_fields__), {"name", "shape"}  # the keys by which a dict is recognised


def encode(options: ExportOptions) -> dict[str, Json]:
    """The options that differ from their defaults, by name, as JSON values; a path is its text."""
    values = {name: getattr(options, name) for name in DECLARATIONS}
    return {name: _encoded(value) for name, value in values.items() if value != getattr(_DEFAULT, name)}


def decode(values: Mapping[str, Any]) -> ExportOptions:
    """The options for values from `encode`; raises BadInput for a name that is no option."""
    unknown = [name for name in values if name not in DECLARATIONS]
    if unknown:
        raise BadInput(f"export has no option {unknown[0]!r}", "use the same deploytool on every machine")
    return ExportOptions(**{name: _decoded(value) for name, value in values.items()})


def _encoded(value: object) -> Json:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_encoded(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _encoded(item) for name, item in value.items()}
    return serde.encode(value)


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(item) for item in value)
    if isinstance(value, dict):
        if set(value) == _RANGE:
            return serde.decode(Range, value)
        if set(value) >= _TENSOR:
            return serde.decode(Tensor, value)
        return {name: _decoded(item) for name, item in value.items()}
    return value
