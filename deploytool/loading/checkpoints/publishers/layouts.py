"""Publishers of weights for the zoo's models, one module each, and the detection of the publisher of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Protocol

from deploytool.errors import BadInput
from deploytool.loading import factory
from deploytool.loading.checkpoints.key_maps import Family, quoted
from deploytool.loading.checkpoints.publishers import (
    huggingface,
    megvii,
    mmpretrain,
    ours,
    pytorchcv,
    timm,
    torchvision,
)
from deploytool.spec import Model, Option


class Layout(Protocol):
    """The checkpoint layout of one publisher; implemented by the modules of this folder, whose names it has."""

    __name__: str
    FAMILIES: Mapping[str, Family]  # model family: its checkpoint format


LAYOUTS: tuple[Layout, ...] = (torchvision, timm, megvii, pytorchcv, mmpretrain, huggingface, ours)
"""In the order of detection: `ours` is last, because others share its names."""


def family_of(model: Model) -> str | None:
    """The family of a zoo model; None for a user's model."""
    module = model.factory.partition(":")[0]
    return module.removeprefix(f"{factory.ZOO}.") if module.startswith(f"{factory.ZOO}.") else None


def recognise(keys: Collection[str], model: Model) -> tuple[str, Family]:
    """Detects the layout of `keys`, and returns its name and its checkpoint format for the model's family.

    If keys match several layouts, the options of the model decide: with activation ReLU, weights are not timm's, which
    require ReLU6. Raises BadInput for another family, an unknown layout, or options the weights were not trained for.
    """
    model_family = family_of(model)
    if model_family is None:
        return "ours", Family(key_pattern="")
    matching = [
        (layout.__name__.rpartition(".")[2], name, family)
        for layout in LAYOUTS
        for name, family in layout.FAMILIES.items()
        if any(re.match(family.key_pattern, key) for key in keys)
    ]
    if not matching:
        raise BadInput(f"unknown names of weights: {_examples(keys)}", f"give a checkpoint of {model.name}")
    of_family = [(layout, family) for layout, name, family in matching if name == model_family]
    if not of_family:
        layout, name, _ = matching[0]
        raise BadInput(f"this is a {layout} {name} checkpoint, and {model.name} was requested", f"name a {name} model")
    for layout, family in of_family:
        if option_conflict(model, family.options) is None:
            return layout, family
    layout, family = of_family[0]
    raise BadInput(
        f"{layout}'s {model_family} weights need {option_conflict(model, family.options)}",
        f"name a {model_family} model without a different value for that option",
    )


def is_known(keys: Collection[str]) -> bool:
    """Whether the keys match any layout."""
    families = [family for layout in LAYOUTS for family in layout.FAMILIES.values()]
    return any(re.match(family.key_pattern, key) for family in families for key in keys)


def option_conflict(model: Model, options: Mapping[str, Option]) -> str | None:
    """The first required option for which the model has a different value; ignores `classes`, which are adapted."""
    for option, value in options.items():
        stated = model.options.get(option, value)
        if stated != value and option != "classes":
            return f"{option}={value!r}, and {model.name} has {stated!r}"
    return None


def _examples(keys: Collection[str]) -> str:
    return ", ".join(map(quoted, list(keys)[:2])) or "none"
