"""The definition that our own files carry beside their weights, believed only as far as it makes sense."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool import plain
from deploytool.errors import BadInput
from deploytool.spec import Model, Preprocessing

_LARGEST_SIDE = 4096


def stored(metadata: Mapping[str, str]) -> Model | None:
    """The definition in a safetensors file's metadata; None if it is not one of our files.

    Raises BadInput if it is there and cannot be one.
    """
    text = metadata.get("model")
    if text is None:
        return None
    try:
        model = plain.decode(Model, plain.loads(text))
        sane = _is_sane(model.preprocessing)
    except plain.Malformed:
        sane = False
    if not sane:
        raise BadInput("the definition that this file carries is damaged", "write the file again")
    return model


def _is_sane(preprocessing: Preprocessing) -> bool:
    sides = (preprocessing.crop, preprocessing.resize)
    return (
        all(0 < side <= _LARGEST_SIDE for side in sides)
        and min(preprocessing.std) > 0
        and preprocessing.channels in ("RGB", "BGR")
    )
