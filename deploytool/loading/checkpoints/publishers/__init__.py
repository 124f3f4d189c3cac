"""Who publishes weights for our models, and how they name them: one file a source."""

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
    """One source of checkpoints; satisfied by a module of this folder, whose file name is the layout's name."""

    __name__: str
    FAMILIES: Mapping[str, Family]  # how the source writes each family it has weights of


LAYOUTS: tuple[Layout, ...] = (torchvision, timm, megvii, pytorchcv, mmpretrain, huggingface, ours)
"""In the order in which they are tried: where names are shared, our own come last."""


def family_of(model: Model) -> str | None:
    """The family a model of our zoo belongs to; None for somebody else's model."""
    where = model.factory.partition(":")[0]
    return where.removeprefix(f"{factory.ZOO}.") if where.startswith(f"{factory.ZOO}.") else None


def recognise(keys: Collection[str], model: Model) -> tuple[str, Family]:
    """The layout that `keys` are named by, and how it writes the model's family.

    Where the names alone leave a choice, an option that the model itself states decides: weights that timm's users
    run with ReLU6 cannot be timm's if ReLU was asked for.
    Raises BadInput for another family, a layout we do not know, or options that the weights were not made for.
    """
    wanted = family_of(model)
    if wanted is None:
        return "ours", Family(sign="")
    found = [
        (layout.__name__.rpartition(".")[2], name, family)
        for layout in LAYOUTS
        for name, family in layout.FAMILIES.items()
        if any(re.match(family.sign, key) for key in keys)
    ]
    if not found:
        raise BadInput(f"nobody we know names weights {_examples(keys)}", f"give a checkpoint of {model.name}")
    suited = [(layout, family) for layout, name, family in found if name == wanted]
    if not suited:
        layout, name, _ = found[0]
        raise BadInput(f"this is a {layout} {name} checkpoint, and {model.name} was asked for", f"name a {name} model")
    for layout, family in suited:
        if option_conflict(model, family.options) is None:
            return layout, family
    layout, family = suited[0]
    raise BadInput(
        f"{layout}'s {wanted} weights need {option_conflict(model, family.options)}",
        f"name a {wanted} model that does not state it otherwise",
    )


def is_known(keys: Collection[str]) -> bool:
    """Whether any source names weights so."""
    families = [family for layout in LAYOUTS for family in layout.FAMILIES.values()]
    return any(re.match(family.sign, key) for family in families for key in keys)


def option_conflict(model: Model, options: Mapping[str, Option]) -> str | None:
    """The first option that weights need and the model states otherwise; classes are the checkpoint's to tell."""
    for option, value in options.items():
        stated = model.options.get(option, value)
        if stated != value and option != "classes":
            return f"{option}={value!r}, and {model.name} has {stated!r}"
    return None


def _examples(keys: Collection[str]) -> str:
    return ", ".join(map(quoted, list(keys)[:2])) or "by no name at all"
