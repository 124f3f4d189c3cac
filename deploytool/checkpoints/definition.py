"""The definition that our own files carry beside their weights, believed only as far as it makes sense."""

from __future__ import annotations

import json
import math
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
        model = plain.decode(Model, json.loads(text))
        sane = _is_sane(model.preprocessing) and isinstance(model.factory, str) and isinstance(model.name, str)
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError):
        sane = False
    if not sane:
        raise BadInput("the definition that this file carries is damaged", "write the file again")
    return model


def _is_sane(preprocessing: Preprocessing) -> bool:
    sides = (preprocessing.crop, preprocessing.resize)
    numbers = (preprocessing.scale, *preprocessing.mean, *preprocessing.std)
    return (
        all(type(side) is int and 0 < side <= _LARGEST_SIDE for side in sides)
        and len(preprocessing.mean) == len(preprocessing.std) == 3
        and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        and min(preprocessing.std) > 0
        and preprocessing.channels in ("RGB", "BGR")
        and isinstance(preprocessing.interpolation, str)
    )
