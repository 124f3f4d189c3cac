"""Finds a model by its name, however it is spelled, or by the place of its factory, without importing torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from deploytool.data import preprocess
from deploytool.data.preprocess import StatedPreprocessing
from deploytool.errors import BadInput
from deploytool.loading import factory
from deploytool.spec import INPUTS, Model, Option, Preprocessing, Tensor

_NEAR = 0.8  # of 1: a letter or two apart; at 0.5 resnet18 was near mobilenet_v1
_LONGEST = 100  # bytes of a file's name in that of its model
GROUP = "deploytool.models"  # the entry points by which other packages add models: each names a sequence of Model


def models() -> tuple[Model, ...]:
    """Every model of the zoo, in the order of its table, then those that installed packages add."""
    return (*_zoo(), *_added())


def _zoo() -> tuple[Model, ...]:
    factory.mount_zoo()
    zoo: tuple[Model, ...] = import_module(f"{factory.ZOO}.specs").ZOO
    return zoo


def _added() -> tuple[Model, ...]:
    """What other packages add; raises BadInput, and names the package, if one of them cannot be loaded."""
    return tuple(model for point in entry_points(group=GROUP) for model in _loaded(point))


def _loaded(point: EntryPoint) -> Sequence[Model]:
    try:
        models: Sequence[Model] = point.load()
    except Exception as error:  # somebody else's code may raise anything
        what = f"the models of {point.value} cannot be loaded: {type(error).__name__}: {error}"
        raise BadInput(what, "mend or uninstall the package that adds them") from error
    return models


def find(name: str, inputs: Sequence[Tensor] = (), arguments: Mapping[str, Option] | None = None) -> Model:
    """The model called `name`, or the one that the factory at `file.py:function` or `module:function` makes.

    `inputs` say what it is fed, where that is not known or to be otherwise; `arguments` go to its factory.
    Raises BadInput for an unknown name, with the closest one, and for a factory whose inputs nobody declared.
    """
    model = _own(name, inputs) if ":" in name else _known(name)
    if inputs:
        model = preprocess.resolve(replace(model, inputs=tuple(inputs), asked=(INPUTS,)), StatedPreprocessing(), {})
    given = arguments or {}
    return replace(model, options={**model.options, **given}, asked=(*model.asked, *given))


def _known(name: str) -> Model:
    """Case, dashes and stray underscores do not matter."""
    plain = name.strip().lower().replace("-", "_").strip("_")
    known = {model.name: model for model in _zoo()}
    if plain in known:
        return known[plain]
    known |= {model.name: model for model in _added()}
    if plain in known:
        return known[plain]
    raise BadInput(f"there is no model {name!r}", _hint(name, difflib.get_close_matches(plain, known, 1, cutoff=_NEAR)))


def _hint(name: str, close: Sequence[str]) -> str:
    """What to write instead of a name that no model has: the factories of a file, or the nearest name."""
    if name.endswith(".py"):
        return f"write FILE:FACTORY, where FACTORY returns the model: {factory.suggest_references(name)}"
    if close:
        return f"did you mean {close[0]}?"
    return "`deploytool models` lists ours; your own model is FILE.py:FACTORY, or package.module:FACTORY"


def _own(reference: str, inputs: Sequence[Tensor]) -> Model:
    if not inputs:
        raise BadInput(f"nobody says what {reference} takes", "declare it: --input 3x224x224")
    if not reference.isprintable() or reference != reference.encode("utf-8", "ignore").decode():
        raise BadInput(f"{reference!r} holds what is no UTF-8 or cannot be printed", "call the file something else")
    factory.source_files(reference)  # raises where there is none
    where, _, function = reference.rpartition(":")
    stem = Path(where).stem if where.endswith(".py") else where.rpartition(".")[2]
    short = stem.encode()[:_LONGEST].decode("utf-8", "ignore")  # it names a folder, too
    return Model(f"{short}_{function}", reference, outputs=(), preprocessing=Preprocessing(assumed=True))
