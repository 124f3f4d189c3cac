"""Tells which of a checkpoint's state dicts is the model's: the first that fits, or why the likeliest does not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deploytool.errors import BadInput
from deploytool.loading import shards
from deploytool.loading.checkpoints import matching, publishers, reader, unwrapping
from deploytool.loading.checkpoints.key_maps import Family, KeyMap, quoted, source_key
from deploytool.loading.checkpoints.unwrapping import StateDict
from deploytool.spec import INPUTS, Model

_SAVE = "save only a state_dict()"
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\.\w+)")


@dataclass(frozen=True)
class Match:
    """A state dict held against a definition.

    tensors: with those that the file leaves out because others are the same. problem: what stands in the way, None if
    nothing does. share: how many of the definition's tensors it has.
    """

    source: StateDict
    model: Model
    family: Family
    layout: str
    ours: matching.Tensors
    tensors: matching.Tensors
    problem: str | None
    share: float

    @property
    def names(self) -> KeyMap:
        """Our places and theirs."""
        return self.family.names(self.model.options)


def find(contents: reader.Contents, model: Model, path: Path) -> Match:
    """The match of the state dict that fits, averaged weights first.

    Raises BadInput, with the reason of the likeliest, if none does, and if several do that are not the same.
    """
    held = unwrapping.state_dicts(contents.held)
    if not held and contents.held == {}:
        held = [StateDict((), {})]  # which lacks something, as will be said
    if not held:
        raise BadInput(_no_tensors(contents.held), _SAVE)
    _check_are_plain(held, path)
    ours = matching.expected_tensors(model) if publishers.family_of(model) is None else None
    tried = [match for source in held for match in _matches(contents, source, model, ours)]
    fitting_ones = sorted((each for each in tried if each.problem is None), key=lambda each: each.source.rank)
    if fitting_ones:
        return _first(fitting_ones)
    if not tried:
        likeliest = next((each for each in _all_variants(held, ours) if publishers.is_known(each.entries)), held[0])
        return _match(contents, likeliest, model, ours)  # raises: nobody took any of them
    raise _refusal(max(tried, key=lambda each: each.share), path)


def _check_are_plain(held: list[StateDict], path: Path) -> None:
    size = sum(each.stat().st_size for each in (path, *shards.shard_files(path)))
    for source in held:
        for key, value in source.entries.items():
            if isinstance(value, torch.Tensor):
                reader.check_is_plain(key, value, size)


def _no_tensors(held: object) -> str:
    """What a checkpoint holds instead of tensors."""
    if not isinstance(held, Mapping):
        return f"the checkpoint is of type {type(held).__name__}, not a state dict"
    key, value = next(iter(held.items()))
    if not isinstance(key, str):
        return f"{quoted(key)} is no name of a tensor"
    return f"{quoted(key)} is of type {type(value).__name__}, not a tensor"


def _all_variants(held: list[StateDict], ours: matching.Tensors | None) -> Iterator[StateDict]:
    for source in held:
        yield from unwrapping.variants(source, ours)


def _matches(
    contents: reader.Contents, source: StateDict, model: Model, ours: matching.Tensors | None
) -> Iterator[Match]:
    """How the state dict fits as it is, and if it does not, how it does without a prefix."""
    for each in unwrapping.variants(source, ours):
        try:
            match = _match(contents, each, model, ours)
        except BadInput:
            continue  # no layout has such names
        yield match
        if match.problem is None and each is source:
            return


def _match(contents: reader.Contents, source: StateDict, model: Model, ours: matching.Tensors | None) -> Match:
    layout, family, model = _recognise(contents, source, model)
    given = {key: value for key, value in source.entries.items() if isinstance(value, torch.Tensor)}
    settled = matching.adapt_model(model, family, given)
    names = family.names(settled.options)
    wanted = matching.expected_tensors(settled) if ours is None else ours
    tensors = matching.add_tied_tensors(matching.rename_weight_norms(given, wanted), wanted, names)
    problem = matching.difference(tensors, wanted, names)
    theirs = {source_key(key, names): like.shape for key, like in wanted.items()}
    odd = next((key for key in theirs if key in source.entries and key not in tensors), None)
    if odd is not None:
        problem = f"{quoted(odd)} is of type {type(source.entries[odd]).__name__}, not a tensor"
    there = sum(key in tensors and tensors[key].shape == shape for key, shape in theirs.items())
    return Match(source, settled, family, layout, wanted, tensors, problem, there / max(1, len(theirs)))


def _first(found: list[Match]) -> Match:
    """The best of those that fit; what it was preferred to is said of it.

    Raises BadInput if names alone do not tell which is meant: those of two generators, say.
    """
    best, *rest = (each for each in found)
    rivals = [each for each in rest if not _same(best, each)]
    equals = [each for each in rivals if each.source.rank == best.source.rank]
    if equals:
        both = f"{best.source.place or 'its own'}, and {equals[0].source.place or 'its own'}"
        raise BadInput(f"the checkpoint holds more than one set of weights for {best.model.name}: {both}", _SAVE)
    others = tuple(each.source.place or "the file's own" for each in rivals)
    return replace(best, source=replace(best.source, others=others))


def _same(one: Match, other: Match) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        one.tensors[key].equal(other.tensors[key]) for key in one.tensors
    )


def _refusal(match: Match, path: Path) -> BadInput:
    model, tensors = match.model, match.tensors
    other = publishers.family_of(model) and matching.matching_zoo_model(model, match.family, tensors)
    remedy = f"the file holds {other}: export that instead" if other else "name the model that the weights are of"
    if asked := _contrary(match):
        remedy = f"leave --arg {asked} out: the checkpoint has another"
    if shard := _SHARD.fullmatch(path.name):
        remedy = f"this is a part of a checkpoint: give {shard[1]}{shard[2]}.index.json"
    where = f", {match.source.place}" if match.source.place else ""
    problem = f"the checkpoint (layout: {match.layout}{where}) does not fit {model.name}: {match.problem}"
    return BadInput(problem, remedy)


def _contrary(match: Match) -> str | None:
    """The first option that the user gave and without which the checkpoint fits; None if that is not what is wrong."""
    model = match.model
    for name in model.asked:
        others = tuple(each for each in model.asked if each != name)
        settled = matching.adapt_model(replace(model, asked=others), match.family, match.tensors)
        if publishers.family_of(model) and settled.options != model.options:
            ours, names = matching.expected_tensors(settled), match.family.names(settled.options)
            if matching.difference(matching.add_tied_tensors(match.tensors, ours, names), ours, names) is None:
                return f"{name}={model.options[name]}"
    return None


def _recognise(contents: reader.Contents, source: StateDict, model: Model) -> tuple[str, Family, Model]:
    """The layout, and the model at the image size its weights were trained at if the file is ours and says so."""
    known = contents.definition
    if known is None or publishers.family_of(model) is None:
        return (*publishers.recognise(source.entries.keys(), model), model)
    if known.factory != model.factory:
        raise BadInput(f"this file holds {quoted(known.name)}, and {model.name} was asked for", "name that model")
    problem = publishers.option_conflict(model, known.options)
    if problem is not None:
        raise BadInput(f"this file holds {quoted(known.name)}, which needs {problem}", "name that model")
    family = Family(sign="", options=known.options, preprocessing=known.preprocessing)
    model = replace(model, classes=model.classes or known.classes)
    if INPUTS in model.asked:
        return "ours", family, model
    inputs = tuple(replace(tensor, shape=(*tensor.shape[:-2], *known.preprocessing.window)) for tensor in model.inputs)
    sized = replace(model.preprocessing, crop=known.preprocessing.crop, resize=known.preprocessing.resize)
    return "ours", family, replace(model, inputs=inputs, preprocessing=sized)
