"""The definition that our own files carry beside their weights, believed only as far as it makes sense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploytool import serde
from deploytool.data import preprocess
from deploytool.errors import BadInput
from deploytool.spec import Model, Preprocessing


def from_metadata(metadata: Mapping[str, str]) -> Model | None:
    """The definition in a safetensors file's metadata; None if it is not one of our files.

    Raises BadInput if it is there and cannot be one.
    """
    text = metadata.get("model")
    if text is None:
        return None
    try:
        model = serde.decode(Model, _completed(serde.loads(text), metadata))
        sane = preprocess.is_valid(model.preprocessing) and min(model.preprocessing.window) > 0
    except serde.Malformed:
        sane = False
    if not sane:
        raise BadInput("the definition that this file carries is damaged", "write the file again")
    return model


def _completed(data: Any, metadata: Mapping[str, str]) -> Any:
    """What a file says, with what files of older versions had no word for."""
    if not isinstance(data, Mapping) or not isinstance(data.get("preprocessing"), Mapping):
        return data  # and so it will be refused
    usual = serde.encode(Preprocessing())
    assert isinstance(usual, Mapping)
    names = serde.loads(metadata.get("classes", "[]"))  # which stood beside the definition
    return {"classes": names, "asked": [], **data, "preprocessing": {**usual, **data["preprocessing"]}}
