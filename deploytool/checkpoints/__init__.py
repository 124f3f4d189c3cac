"""Loads weights that others have trained: reads them safely, tells whose they are, and settles how they want to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deploytool.checkpoints import fitting, layouts, reading
from deploytool.checkpoints.naming import Family, quoted
from deploytool.errors import BadInput
from deploytool.spec import Model


@dataclass(frozen=True)
class Loaded:
    """Weights for a definition: exactly the keys and shapes of its state dict, and whose layout they came in."""

    model: Model
    state: Mapping[str, torch.Tensor]
    layout: str


def load(path: Path, model: Model, *, trust_code: bool = False) -> Loaded:
    """The weights in `path` for `model`, with the options, outputs and preprocessing that belong to them.

    trust_code: also open files that are programs (TorchScript, .pt2, pickled modules), which runs them.
    Raises BadInput, and names the key, unless every tensor of the file fits.
    """
    contents = reading.read(path, trust_code=trust_code)
    layout, family, model = _recognise(contents, model)
    settled = fitting.settle(model, family, contents.tensors)
    names = family.names(settled.options)
    ours = fitting.wanted(settled)
    problem = fitting.difference(contents.tensors, ours, names)
    if problem is not None:
        other = layouts.family_of(model) and fitting.sibling(model, family, contents.tensors)
        remedy = f"the file holds {other}: export that instead" if other else "name the model that the weights are of"
        raise BadInput(f"the checkpoint (layout: {layout}) does not fit {model.name}: {problem}", remedy)
    return Loaded(settled, fitting.take(contents.tensors, ours, names), layout)


def _recognise(contents: reading.Contents, model: Model) -> tuple[str, Family, Model]:
    """The layout, and the model at the image size its weights were trained at if the file is ours and says so."""
    known = contents.definition
    if known is None or layouts.family_of(model) is None:
        return (*layouts.recognise(contents.tensors, model), model)
    if known.factory != model.factory:
        raise BadInput(f"this file holds {quoted(known.name)}, and {model.name} was asked for", "name that model")
    problem = layouts.contradiction(model, known.options)
    if problem is not None:
        raise BadInput(f"this file holds {quoted(known.name)}, which needs {problem}", "name that model")
    size = known.preprocessing.crop
    inputs = tuple(replace(tensor, shape=(*tensor.shape[:-2], size, size)) for tensor in model.inputs)
    family = Family(sign="", options=known.options)
    return "ours", family, replace(model, inputs=inputs, preprocessing=known.preprocessing)
