"""Finds a model by its name, however it is spelled, without importing torch."""

from __future__ import annotations

import difflib
from importlib import import_module

from deploytool import factory
from deploytool.errors import BadInput
from deploytool.spec import Model


def models() -> tuple[Model, ...]:
    """Every model of the zoo, in the order of its table."""
    factory.mount_zoo()
    zoo: tuple[Model, ...] = import_module(f"{factory.ZOO}.specs").ZOO
    return zoo


def find(name: str) -> Model:
    """The model called `name`; case, dashes and stray underscores do not matter.

    Raises BadInput with the closest name if there is none.
    """
    known = {model.name: model for model in models()}
    plain = name.strip().lower().replace("-", "_").strip("_")
    if plain in known:
        return known[plain]
    close = difflib.get_close_matches(plain, known, 1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else "`deploytool models` lists them"
    raise BadInput(f"there is no model {name!r}", hint)
