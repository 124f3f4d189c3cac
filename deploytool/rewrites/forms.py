"""How a graph is edited: one file an edit, each exact, each saying where it fired and why it did not elsewhere."""

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
    """What became of one rewrite: the nodes it wrote, by name, and why it left what looks like its motif."""

    fired: tuple[str, ...]
    passed: tuple[str, ...] = ()


class Rewrite(Protocol):
    """Satisfied by a module `rewrites/<verb_object>.py`; its docstring holds the algebra that makes it exact."""

    def apply(self, draft: EditableGraph) -> Outcome:
        """Edits the draft wherever the motif is; an outcome that fired nowhere has changed nothing, and says why."""


def on_branches(
    draft: EditableGraph,
    motif: Callable[[ParallelBranches], bool],
    edit: Callable[[ParallelBranches], list[str] | str],
    lacking: str,
) -> Outcome:
    """What became of every fan with the motif: `edit` gives the names of what it wrote, or why it left the fan."""
    fired, passed = list[str](), list[str]()
    for fan in find(draft):
        if isinstance(fan, str):
            passed.append(fan)
        elif motif(fan):
            made = edit(fan)
            if isinstance(made, str):
                passed.append(f"{fan.concat.name}: {made}")
            else:
                fired += made
    return Outcome(tuple(fired), tuple(passed) if fired or passed else (lacking,))


_NO_FORM = ("pool_by_window",)  # alone: one node for another is not worth timing
_ALONE = Outcome((), ("the rest of its recipe makes no form of its own",))


def load(name: str) -> Rewrite:
    """The rewrite called `name`."""
    return cast("Rewrite", import_module(f"deploytool.rewrites.{name}"))


@dataclass(frozen=True)
class Candidate:
    """One form of a graph: the recipes that lead to it, the first of them its name, and what became of each rewrite."""

    names: tuple[str, ...]
    model: onnx.ModelProto
    outcomes: Mapping[str, Outcome]

    @property
    def name(self) -> str:
        """The first recipe that leads to it."""
        return self.names[0]

    @property
    def nodes(self) -> int:
        """How many nodes it has."""
        return len(self.model.graph.node)

    @property
    def weights(self) -> int:
        """How many weights it has, zeros for filling up among them."""
        return sum(math.prod(each.dims) for each in self.model.graph.initializer)


def rewrite(model: onnx.ModelProto, names: Sequence[str]) -> tuple[onnx.ModelProto, Mapping[str, Outcome]]:
    """The model after these rewrites, one after the other, and what became of each.

    The very same model comes back if none fires.
    """
    outcomes: dict[str, Outcome] = {}
    for name in names:
        draft = EditableGraph(model, mark=f"/{name}")
        outcomes[name] = load(name).apply(draft)
        if outcomes[name].fired:
            model = draft.to_model()
    return model, outcomes


def candidates(model: onnx.ModelProto, recipes: Mapping[str, Sequence[str]] = RECIPES) -> list[Candidate]:
    """The different graphs that the recipes lead to, in their order; what several recipes share is done once."""
    done: dict[tuple[str, ...], tuple[onnx.ModelProto, Mapping[str, Outcome]]] = {(): (model, {})}
    found: dict[tuple[str, ...], Candidate] = {}
    for recipe, names in recipes.items():
        made: tuple[str, ...] = ()
        for name in names:
            before, outcomes = done[made]
            made = (*made, name)
            if made not in done:
                after, outcome = rewrite(before, [name])
                done[made] = (after, {**outcomes, **outcome})
        after, outcomes = done[made]
        form = tuple(name for name in names if outcomes[name].fired and name not in _NO_FORM)
        known = found.get(form)
        if known:
            alone = {name: _ALONE for name in names if outcomes[name].fired and name in _NO_FORM}
            after, outcomes = known.model, {**known.outcomes, **outcomes, **alone}
        found[form] = Candidate((*known.names, recipe) if known else (recipe,), after, outcomes)
    return list(found.values())
