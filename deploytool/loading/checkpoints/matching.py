"""Matches the tensors of a checkpoint to a model definition: all keys and shapes must fit."""

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
from deploytool.loading.checkpoints.publishers.layouts import family_of, option_conflict
from deploytool.loading.module import build as module_build
from deploytool.spec import Model

Tensors = Mapping[str, torch.Tensor]
COUNTER = ".num_batches_tracked"  # training steps of a batch norm: unused in inference, missing in old files
_PROFILER_KEYS = ("total_ops", "total_params")  # added to every module by the profiler thop
_NORMS = (("_g", "original0"), ("_v", "original1"), ("_orig", "original"), ("_u", "0._u"), ("_v", "0._v"))
_CLASSIFIERS = ("classifier.weight", "classifier.1.weight")


def adapt_model(model: Model, family: Family, tensors: Tensors) -> Model:
    """Adapts a zoo model to the weights: options, number of classes, preprocessing. Returns other models unchanged."""
    if family_of(model) is None:
        return model
    user_options = {name: model.options[name] for name in model.asked if name in model.options}
    options = {**model.options, **family.options, **user_options}
    names = family.names(options)
    classifiers = [tensors[key] for key in (source_key(name, names) for name in _CLASSIFIERS) if key in tensors]
    if classifiers and classifiers[0].dim() > 0 and "classes" not in user_options:
        options["classes"] = classifiers[0].shape[0]
    classes = options.get("classes", model.outputs[0].shape[-1])
    outputs = tuple(replace(output, shape=(*output.shape[:-1], int(classes or 0))) for output in model.outputs)
    preprocessing = preprocess.merged(family.preprocessing or model.preprocessing, model.preprocessing)
    published = options == model.options  # the published counts hold for these options only
    return replace(
        model,
        options=options,
        outputs=outputs,
        preprocessing=preprocessing,
        parameters=model.parameters if published else None,
        macs=model.macs if published else None,
    )


def expected_tensors(model: Model) -> Tensors:
    """The state dict of the definition, for its keys, shapes and dtypes; zoo models are built on the meta device."""
    if family_of(model) is None:
        with module_build.with_seed():
            user_state: dict[str, torch.Tensor] = module_build.build(model).module.state_dict()
        return user_state
    build = factory.resolve(model.factory)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            state: dict[str, torch.Tensor] = build(**model.options).state_dict()
    except (TypeError, ValueError, RuntimeError, OverflowError) as failure:
        problem = f"{model.name} cannot be built with the options {quoted(dict(model.options))}"
        raise BadInput(problem, "remove the options that it does not have") from failure
    return state


def rename_weight_norms(tensors: Tensors, expected: Tensors) -> Tensors:
    """Renames the tensors of `weight_norm` and `spectral_norm` to the names in `expected`.

    torch 2.0 changed these names; the values are the same.
    """
    renamed = dict(tensors)
    for key in expected:
        if key not in renamed and (old_key := next((name for name in _weight_norm_names(key) if name in renamed), "")):
            renamed[key] = renamed.pop(old_key)
    return renamed


def _weight_norm_names(key: str) -> Iterator[str]:
    """The other names that torch versions use for this tensor of a weight norm."""
    for old, new in _NORMS:
        if match := re.fullmatch(rf"(.*\.|)parametrizations\.(\w+)\.{re.escape(new)}", key):
            yield f"{match[1]}{match[2]}{old}"
        if match := re.fullmatch(rf"(.*\.|)(\w+){old}", key):
            yield f"{match[1]}parametrizations.{match[2]}.{new}"


def add_tied_tensors(tensors: Tensors, expected: Tensors, names: KeyMap) -> Tensors:
    """Adds tensors that the file omits because the definition ties them to tensors in the file."""
    first_key: dict[tuple[object, ...], str] = {}
    completed = dict(tensors)
    for present in (True, False):  # present keys first: the file may omit either of two tied tensors
        for key, tensor in expected.items():
            memory = (
                (tensor.data_ptr(), tensor.shape, tensor.stride()) if not tensor.is_meta and tensor.numel() else None
            )
            file_key = source_key(key, names)
            if memory is None or (file_key in tensors) is not present:
                continue
            if present:
                first_key.setdefault(memory, file_key)
            elif memory in first_key:
                completed[file_key] = tensors[first_key[memory]]
    return completed


def difference(tensors: Tensors, expected: Tensors, names: KeyMap) -> str | None:
    """The first missing, additional or differently shaped tensor of a checkpoint, as a message; None if all fit."""
    expected_by_file_key = {source_key(key, names): tensor for key, tensor in expected.items()}
    for key, tensor in expected_by_file_key.items():
        if key not in tensors and not key.endswith(COUNTER):
            longer = next((name for name in tensors if name.endswith(f".{key}")), None)
            hint = f", and has {quoted(longer)}: not all names have that prefix" if longer else ""
            return f"it lacks {quoted(key)}{hint}"
        if key in tensors and tensors[key].shape != tensor.shape:
            return f"{quoted(key)} is {shape_text(tensors[key].shape)}, not {shape_text(tensor.shape)}"
    unexpected = (key for key in tensors if key not in expected_by_file_key and not key.endswith(_PROFILER_KEYS))
    extra = next(unexpected, None)
    return None if extra is None else f"it has the additional tensor {quoted(extra)}"


def to_state_dict(tensors: Tensors, expected: Tensors, names: KeyMap) -> dict[str, torch.Tensor]:
    """The checkpoint's values with the keys and dtypes of the definition; raises BadInput for non-finite values."""
    state: dict[str, torch.Tensor] = {}
    for key, like in expected.items():
        file_key = source_key(key, names)
        tensor = tensors.get(file_key)
        state[key] = torch.zeros((), dtype=like.dtype) if tensor is None else _convert(file_key, tensor, like.dtype)
    return state


def _convert(key: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A contiguous copy in another floating-point dtype; raises BadInput for integers and non-finite values."""
    if tensor.dtype != dtype and not (tensor.dtype.is_floating_point and dtype.is_floating_point):
        raise BadInput(f"{quoted(key)} is of {tensor.dtype}, not {dtype}", "give the weights before quantisation")
    converted = tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
    if dtype.is_floating_point and converted.numel() and not torch.stack(converted.aminmax()).isfinite().all():
        raise BadInput(f"{quoted(key)} contains values that are not finite", "give a checkpoint of a converged run")
    return converted


def matching_zoo_model(model: Model, family: Family, tensors: Tensors) -> str | None:
    """The name of the zoo model that these weights fit, None if there is none; models with similar options first."""
    zoo: tuple[Model, ...] = import_module(f"{factory.ZOO}.specs").ZOO
    for candidate in sorted(zoo, key=lambda candidate: -len(candidate.options.items() & model.options.items())):
        if candidate.factory == model.factory and option_conflict(candidate, family.options) is None:
            adapted = adapt_model(candidate, family, tensors)
            if difference(tensors, expected_tensors(adapted), family.names(adapted.options)) is None:
                return candidate.name
    return None
