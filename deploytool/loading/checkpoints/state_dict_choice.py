"""Chooses the state dict of a checkpoint that fits the model, or reports why the most similar one does not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deploytool.errors import BadInput
from deploytool.loading import shards
from deploytool.loading.checkpoints import matching, reader, unwrapping
from deploytool.loading.checkpoints.key_maps import Family, KeyMap, quoted, source_key
from deploytool.loading.checkpoints.publishers import layouts
from deploytool.loading.checkpoints.unwrapping import StateDict
from deploytool.spec import INPUT_OPTION, Model

_SAVE_REMEDY = "save only a state_dict()"
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\.\w+)")


@dataclass(frozen=True)
class Match:
    """The comparison of a state dict with a model definition.

    expected: the state dict of the definition. tensors: those of the file, with omitted tied tensors added. problem:
    the first difference, None if it fits. share: the fraction of the expected tensors that the file has.
    """

    source: StateDict
    model: Model
    family: Family
    layout: str
    expected: matching.Tensors
    tensors: matching.Tensors
    problem: str | None
    share: float

    @property
    def names(self) -> KeyMap:
        """The key map from the zoo to the publisher."""
        return self.family.names(self.model.options)


def find(contents: reader.Contents, model: Model, path: Path) -> Match:
    """Finds the state dict that fits the model; prefers averaged weights.

    Raises BadInput with the difference of the most similar one if none fits, and if different ones fit equally well.
    """
    candidates = unwrapping.state_dicts(contents.data)
    if not candidates and contents.data == {}:
        candidates = [StateDict((), {})]  # the difference names the first missing tensor
    if not candidates:
        raise BadInput(_no_tensors_problem(contents.data), _SAVE_REMEDY)
    _check_are_plain(candidates, path)
    expected = matching.expected_tensors(model) if layouts.family_of(model) is None else None
    matches = [match for source in candidates for match in _matches(contents, source, model, expected)]
    fitting = sorted((match for match in matches if match.problem is None), key=lambda match: match.source.rank)
    if fitting:
        return _best(fitting)
    if not matches:
        variants = (variant for source in candidates for variant in unwrapping.variants(source, expected))
        known = next((variant for variant in variants if layouts.is_known(variant.entries)), candidates[0])
        return _match(contents, known, model, expected)  # raises: no publisher uses such names
    raise _mismatch_error(max(matches, key=lambda match: match.share), path)


def _check_are_plain(candidates: list[StateDict], path: Path) -> None:
    size = sum(file.stat().st_size for file in (path, *shards.shard_files(path)))
    for source in candidates:
        for key, value in source.entries.items():
            if isinstance(value, torch.Tensor):
                reader.check_is_plain(key, value, size)


def _no_tensors_problem(data: object) -> str:
    """Describes a checkpoint without tensors."""
    if not isinstance(data, Mapping):
        return f"the checkpoint is of type {type(data).__name__}, not a state dict"
    key, value = next(iter(data.items()))
    if not isinstance(key, str):
        return f"{quoted(key)} is not the name of a tensor"
    return f"{quoted(key)} is of type {type(value).__name__}, not a tensor"


def _matches(
    contents: reader.Contents, source: StateDict, model: Model, expected: matching.Tensors | None
) -> Iterator[Match]:
    """The match of the unchanged state dict, then, unless it fits, those of its variants without a prefix."""
    for variant in unwrapping.variants(source, expected):
        try:
            match = _match(contents, variant, model, expected)
        except BadInput:
            continue  # no publisher uses such names
        yield match
        if match.problem is None and variant is source:
            return


def _match(contents: reader.Contents, source: StateDict, model: Model, expected: matching.Tensors | None) -> Match:
    layout, family, model = _recognise(contents, source, model)
    file_tensors = {key: value for key, value in source.entries.items() if isinstance(value, torch.Tensor)}
    adapted = matching.adapt_model(model, family, file_tensors)
    names = family.names(adapted.options)
    expected = matching.expected_tensors(adapted) if expected is None else expected
    tensors = matching.add_tied_tensors(matching.rename_weight_norms(file_tensors, expected), expected, names)
    problem = matching.difference(tensors, expected, names)
    shapes = {source_key(key, names): tensor.shape for key, tensor in expected.items()}
    not_tensor = next((key for key in shapes if key in source.entries and key not in tensors), None)
    if not_tensor is not None:
        problem = f"{quoted(not_tensor)} is of type {type(source.entries[not_tensor]).__name__}, not a tensor"
    fitting = sum(key in tensors and tensors[key].shape == shape for key, shape in shapes.items())
    return Match(source, adapted, family, layout, expected, tensors, problem, fitting / max(1, len(shapes)))


def _best(fitting: list[Match]) -> Match:
    """The first of the fitting matches, with the locations of the others.

    Raises BadInput if a different one has the same rank, such as those of two generators.
    """
    best, *rest = fitting
    different = [match for match in rest if not _have_equal_tensors(best, match)]
    ambiguous = [match for match in different if match.source.rank == best.source.rank]
    if ambiguous:
        places = f"{best.source.place or 'those at the top level'}, and "
        places += ambiguous[0].source.place or "those at the top level"
        problem = f"the checkpoint contains more than one set of weights for {best.model.name}: {places}"
        raise BadInput(problem, _SAVE_REMEDY)
    others = tuple(match.source.place or "those at the top level" for match in different)
    return replace(best, source=replace(best.source, others=others))


def _have_equal_tensors(first: Match, second: Match) -> bool:
    return first.tensors.keys() == second.tensors.keys() and all(
        first.tensors[key].equal(second.tensors[key]) for key in first.tensors
    )


def _mismatch_error(match: Match, path: Path) -> BadInput:
    """The error for a checkpoint that does not fit, with the most specific remedy."""
    model, tensors = match.model, match.tensors
    zoo_model = layouts.family_of(model) and matching.matching_zoo_model(model, match.family, tensors)
    remedy = f"the file contains {zoo_model}: export that" if zoo_model else "name the model of these weights"
    if option := _conflicting_argument(match):
        remedy = f"remove --arg {option}: the checkpoint has a different value"
    if shard := _SHARD.fullmatch(path.name):
        remedy = f"this is one shard of a checkpoint: give {shard[1]}{shard[2]}.index.json"
    place = f", {match.source.place}" if match.source.place else ""
    problem = f"the checkpoint (layout: {match.layout}{place}) does not fit {model.name}: {match.problem}"
    return BadInput(problem, remedy)


def _conflicting_argument(match: Match) -> str | None:
    """The first `--arg` of the user without which the checkpoint fits; None if there is none."""
    model = match.model
    for name in model.asked:
        others = tuple(option for option in model.asked if option != name)
        adapted = matching.adapt_model(replace(model, asked=others), match.family, match.tensors)
        if layouts.family_of(model) and adapted.options != model.options:
            expected, names = matching.expected_tensors(adapted), match.family.names(adapted.options)
            tensors = matching.add_tied_tensors(match.tensors, expected, names)
            if matching.difference(tensors, expected, names) is None:
                return f"{name}={model.options[name]}"
    return None


def _recognise(contents: reader.Contents, source: StateDict, model: Model) -> tuple[str, Family, Model]:
    """The layout and family of the weights, and the model; for files of this tool, with the image size of training."""
    definition = contents.definition
    if definition is None or layouts.family_of(model) is None:
        return (*layouts.recognise(source.entries.keys(), model), model)
    if definition.factory != model.factory:
        problem = f"this file contains {quoted(definition.name)}, and {model.name} was requested"
        raise BadInput(problem, "name that model")
    conflict = layouts.option_conflict(model, definition.options)
    if conflict is not None:
        raise BadInput(f"this file contains {quoted(definition.name)}, which needs {conflict}", "name that model")
    family = Family(key_pattern="", options=definition.options, preprocessing=definition.preprocessing)
    model = replace(model, classes=model.classes or definition.classes)
    if INPUT_OPTION in model.asked:
        return "ours", family, model
    trained = definition.preprocessing
    inputs = tuple(replace(tensor, shape=(*tensor.shape[:-2], *trained.crop_size)) for tensor in model.inputs)
    preprocessing = replace(model.preprocessing, crop=trained.crop, resize=trained.resize)
    return "ours", family, replace(model, inputs=inputs, preprocessing=preprocessing)
