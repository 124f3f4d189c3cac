"""Fits a checkpoint's tensors to a definition: every key and every shape, or the first one that does not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module

import torch

from deploytool.data import preprocess
from deploytool.errors import BadInput
from deploytool.loading import factory
from deploytool.loading.checkpoints.key_maps import Family, KeyMap, quoted, shape_text, source_key
from deploytool.loading.checkpoints.publishers import family_of, option_conflict
from deploytool.loading.module import build as module_build
from deploytool.spec import Model

Tensors = Mapping[str, torch.Tensor]
COUNTER = ".num_batches_tracked"  # counts training steps; inference needs it not, and old files have it not
_COUNTED = ("total_ops", "total_params")  # what the profiler thop leaves in every module
_NORMS = (("_g", "original0"), ("_v", "original1"), ("_orig", "original"), ("_u", "0._u"), ("_v", "0._v"))
_CLASSIFIERS = ("classifier.weight", "classifier.1.weight")


def adapt_model(model: Model, family: Family, tensors: Tensors) -> Model:
    """The model with the options, the classes and the preprocessing that these weights want; not if it is not ours."""
    if family_of(model) is None:
        return model
    said = {name: model.options[name] for name in model.asked if name in model.options}
    options = {**model.options, **family.options, **said}
    names = family.names(options)
    heads = [tensors[key] for key in (source_key(ours, names) for ours in _CLASSIFIERS) if key in tensors]
    if heads and heads[0].dim() > 0 and "classes" not in said:
        options["classes"] = heads[0].shape[0]
    classes = options.get("classes", model.outputs[0].shape[-1])
    outputs = tuple(replace(output, shape=(*output.shape[:-1], int(classes or 0))) for output in model.outputs)
    preprocessing = preprocess.merged(family.preprocessing or model.preprocessing, model.preprocessing)
    published = options == model.options
    return replace(
        model,
        options=options,
        outputs=outputs,
        preprocessing=preprocessing,
        parameters=model.parameters if published else None,
        macs=model.macs if published else None,
    )


def expected_tensors(model: Model) -> Tensors:
    """The definition's own state dict, its numbers being of no interest; of our zoo not even allocated."""
    if family_of(model) is None:
        with module_build.with_seed():
            own: dict[str, torch.Tensor] = module_build.build(model).module.state_dict()
        return own
    build = factory.resolve(model.factory)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            state: dict[str, torch.Tensor] = build(**model.options).state_dict()
    except (TypeError, ValueError, RuntimeError, OverflowError) as failure:
        problem = f"{model.name} cannot be made with the options {quoted(dict(model.options))}"
        raise BadInput(problem, "leave out those that it does not have") from failure
    return state


def rename_weight_norms(tensors: Tensors, ours: Tensors) -> Tensors:
    """The tensors under the names that the definition has for its norms of weights, whichever torch.nn.utils made them.

    `weight_norm` and `spectral_norm` write other names since torch 2.0, for the same numbers.
    """
    found = dict(tensors)
    for key in ours:
        if key not in found and (other := next((each for each in _spellings(key) if each in found), None)):
            found[key] = found.pop(other)
    return found


def _spellings(key: str) -> Iterator[str]:
    """How else torch calls this part of a norm of weights."""
    for old, new in _NORMS:
        if found := re.fullmatch(rf"(.*\.|)parametrizations\.(\w+)\.{re.escape(new)}", key):
            yield f"{found[1]}{found[2]}{old}"
        if found := re.fullmatch(rf"(.*\.|)(\w+){old}", key):
            yield f"{found[1]}parametrizations.{found[2]}.{new}"


def add_tied_tensors(tensors: Tensors, ours: Tensors, names: KeyMap) -> Tensors:
    """The tensors with those that a file leaves out because the definition has them tied to others that are there."""
    first: dict[tuple[object, ...], str] = {}
    found = dict(tensors)
    for present in (True, False):  # the names that are there first: either of two tied ones may be left out
        for key, like in ours.items():
            place = (like.data_ptr(), like.shape, like.stride()) if not like.is_meta and like.numel() else None
            their = source_key(key, names)
            if place is None or (their in tensors) is not present:
                continue
            if present:
                first.setdefault(place, their)
            elif place in first:
                found[their] = tensors[first[place]]
    return found


def difference(tensors: Tensors, ours: Tensors, names: KeyMap) -> str | None:
    """The first thing in which a checkpoint is not what the definition wants; None if it is."""
    theirs = {source_key(key, names): like for key, like in ours.items()}
    for key, like in theirs.items():
        if key not in tensors and not key.endswith(COUNTER):
            longer = next((other for other in tensors if other.endswith(f".{key}")), None)
            prefixed = f", and has {quoted(longer)}: not all names have that prefix" if longer else ""
            return f"it lacks {quoted(key)}{prefixed}"
        if key in tensors and tensors[key].shape != like.shape:
            return f"{quoted(key)} is {shape_text(tensors[key].shape)}, not {shape_text(like.shape)}"
    extra = next((key for key in tensors if key not in theirs and not key.endswith(_COUNTED)), None)
    return None if extra is None else f"it has {quoted(extra)} besides"


def to_state_dict(tensors: Tensors, ours: Tensors, names: KeyMap) -> dict[str, torch.Tensor]:
    """The checkpoint's numbers under our keys, in our types; raises BadInput for numbers that are none."""
    state: dict[str, torch.Tensor] = {}
    for key, like in ours.items():
        their = source_key(key, names)
        given = tensors.get(their)
        state[key] = torch.zeros((), dtype=like.dtype) if given is None else _converted(their, given, like.dtype)
    return state


def _converted(key: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if tensor.dtype != dtype and not (tensor.dtype.is_floating_point and dtype.is_floating_point):
        raise BadInput(f"{quoted(key)} is of {tensor.dtype}, not {dtype}", "give the weights before quantisation")
    taken = tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
    if dtype.is_floating_point and taken.numel() and not torch.stack(taken.aminmax()).isfinite().all():
        raise BadInput(
            f"{quoted(key)} holds numbers that are not finite", "give a checkpoint from a run that converged"
        )
    return taken


def matching_zoo_model(model: Model, family: Family, tensors: Tensors) -> str | None:
    """The name of the zoo's model that these weights do fit, where there is one, the closest first."""
    zoo: tuple[Model, ...] = import_module(f"{factory.ZOO}.specs").ZOO
    for other in sorted(zoo, key=lambda other: -len(other.options.items() & model.options.items())):
        if other.factory == model.factory and option_conflict(other, family.options) is None:
            settled = adapt_model(other, family, tensors)
            if difference(tensors, expected_tensors(settled), family.names(settled.options)) is None:
                return other.name
    return None
