"""Reads and validates the model definition that this tool writes into the metadata of its safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploytool import serde
from deploytool.data import pixel_inputs, preprocess
from deploytool.errors import BadInput
from deploytool.spec import Model, Preprocessing


def from_metadata(metadata: Mapping[str, str]) -> Model | None:
    """The definition in the metadata of a safetensors file; None for a file of another tool.

    Raises BadInput if the definition is invalid.
    """
    text = metadata.get("model")
    if text is None:
        return None
    try:
        model = pixel_inputs.original(serde.decode(Model, _with_defaults(serde.loads(text), metadata)))
        valid = preprocess.is_valid(model.preprocessing) and min(model.preprocessing.crop_size) > 0
    except serde.Malformed:
        valid = False
    if not valid:
        raise BadInput("the model definition in the metadata of this file is invalid", "write the file again")
    return model


def _with_defaults(data: Any, metadata: Mapping[str, str]) -> Any:
    """Adds the fields that files of older versions lack."""
    if not isinstance(data, Mapping) or not isinstance(data.get("preprocessing"), Mapping):
        return data  # decoding it will fail
    defaults = serde.encode(Preprocessing())
    assert isinstance(defaults, Mapping)
    classes = serde.loads(metadata.get("classes", "[]"))  # older versions stored them outside the definition
    return {"classes": classes, "asked": [], **data, "preprocessing": {**defaults, **data["preprocessing"]}}
