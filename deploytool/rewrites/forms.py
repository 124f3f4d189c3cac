"""Applies recipes of rewrites to a graph and collects the different graphs (forms) that result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

import onnx

from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.parallel_branches import ParallelBranches, find
from deploytool.rewrites.recipes import RECIPES


@dataclass(frozen=True)
class Outcome:
    """The result of one rewrite: the names of the nodes it wrote, and why it skipped similar patterns."""

    applied: tuple[str, ...]
    skipped: tuple[str, ...] = ()


class Rewrite(Protocol):
    """Satisfied by a module `rewrites/<verb_object>.py`; its docstring gives the algebra that makes it exact."""

    def apply(self, graph: EditableGraph) -> Outcome:
        """Edits the graph wherever the pattern occurs; if it occurs nowhere, changes nothing and says why."""


def on_branches(
    graph: EditableGraph,
    matches: Callable[[ParallelBranches], bool],
    edit: Callable[[ParallelBranches], list[str] | str],
    no_match: str,
) -> Outcome:
    """The outcome of `edit` on all parallel branches that match.

    `edit` returns the names of the nodes it wrote, or why it skipped the branches. `no_match` is the reason given where
    no branches match.
    """
    applied, skipped = list[str](), list[str]()
    for motif in find(graph):
        if isinstance(motif, str):
            skipped.append(motif)
        elif matches(motif):
            result = edit(motif)
            if isinstance(result, str):
                skipped.append(f"{motif.concat.name}: {result}")
            else:
                applied += result
    return Outcome(tuple(applied), tuple(skipped) if applied or skipped else (no_match,))


_NOT_TIMED_ALONE = ("pool_by_window",)  # it replaces one node by another: too small a change to be timed as a form
_ALONE = Outcome((), ("no other rewrite of its recipe applies",))


def load(name: str) -> Rewrite:
    """The rewrite of this name."""
    return cast("Rewrite", import_module(f"deploytool.rewrites.{name}"))


@dataclass(frozen=True)
class Candidate:
    """One form of a graph: the names of the recipes that produce it, and the outcome of each rewrite."""

    names: tuple[str, ...]
    model: onnx.ModelProto
    outcomes: Mapping[str, Outcome]

    @property
    def name(self) -> str:
        """The first recipe that produces it."""
        return self.names[0]

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return len(self.model.graph.node)

    @property
    def weights(self) -> int:
        """The number of weight elements, padding zeros included."""
        return sum(math.prod(weight.dims) for weight in self.model.graph.initializer)


def rewrite(model: onnx.ModelProto, names: Sequence[str]) -> tuple[onnx.ModelProto, Mapping[str, Outcome]]:
    """The model after these rewrites in sequence, and the outcome of each.

    Returns the same object if no rewrite applies.
    """
    outcomes: dict[str, Outcome] = {}
    for name in names:
        graph = EditableGraph(model, suffix=f"/{name}")
        outcomes[name] = load(name).apply(graph)
        if outcomes[name].applied:
            model = graph.to_model()
    return model, outcomes


def candidates(model: onnx.ModelProto, recipes: Mapping[str, Sequence[str]] = RECIPES) -> list[Candidate]:
    """The different graphs that the recipes produce, in their order; common prefixes of recipes are computed once."""
    done: dict[tuple[str, ...], tuple[onnx.ModelProto, Mapping[str, Outcome]]] = {(): (model, {})}
    forms: dict[tuple[str, ...], Candidate] = {}
    for recipe, names in recipes.items():
        prefix: tuple[str, ...] = ()
        for name in names:
            before, outcomes = done[prefix]
            prefix = (*prefix, name)
            if prefix not in done:
                after, outcome = rewrite(before, [name])
                done[prefix] = (after, {**outcomes, **outcome})
        after, outcomes = done[prefix]
        key = tuple(name for name in names if outcomes[name].applied and name not in _NOT_TIMED_ALONE)
        known = forms.get(key)
        if known:
            alone = {name: _ALONE for name in names if outcomes[name].applied and name in _NOT_TIMED_ALONE}
            after, outcomes = known.model, {**known.outcomes, **outcomes, **alone}
        forms[key] = Candidate((*known.names, recipe) if known else (recipe,), after, outcomes)
    return list(forms.values())
