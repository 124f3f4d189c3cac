"""The entries of `exclude`: which cells they leave out, and which of them leave out none."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from deploytool.errors import BadInput
from deploytool.pipeline.export_options import DECLARATIONS
from deploytool.results.sweep import Cell
from deploytool.spec import FLOATS, Options, Precision, Range
from deploytool.targets import TARGETS, THIS

NO_TARGET = "none"  # as a target: a cell without an engine
_AXES = ("model", "precision", "exporter", "target", "batch", "weights", "data")  # the words of `exclude`
_CLOSED: Mapping[str, Callable[[], Sequence[str]]] = {  # axes of which every possible value is known
    "precision": lambda: FLOATS,
    "exporter": lambda: DECLARATIONS["exporter"].choices,
    "target": lambda: (*TARGETS, THIS, NO_TARGET),
}

_Rule = Mapping[str, str]  # the patterns of an entry, by axis


class Exclusion:
    """The entries of `exclude`; it remembers which of them have left out a cell.

    Raises BadInput for an entry that is no list of patterns, and for a pattern that no cell of any sweep can match.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._rules = {text: _rule(text) for text in texts}
        self._unused = dict.fromkeys(self._rules)
        self._models: dict[str, None] = {}

    def leaves_out(self, cell: Cell, target: str) -> bool:
        """Whether an entry matches a cell; `target` is that of the table, also for a cell without an engine."""
        self._models[cell.model] = None
        matching = [text for text, rule in self._rules.items() if _matches(cell, target or NO_TARGET, rule)]
        for text in matching:
            self._unused.pop(text, None)
        return bool(matching)

    def remarks(self) -> Iterator[str]:
        """One line for each entry that has left out no cell."""
        for text in self._unused:
            yield f"exclude {text!r} leaves out no cell{self._hint(self._rules[text].get('model', ''))}"

    def _hint(self, pattern: str) -> str:
        """The closest model of the sweep, if a pattern matches none of them."""
        if not pattern or any(fnmatchcase(model, pattern) for model in self._models):
            return ""
        close = difflib.get_close_matches(pattern.strip("*"), self._models, 1)
        return f": did you mean model={close[0]}?" if close else ": the sweep has no such model"


def word(axis: str, text: str, known: Sequence[str]) -> str:
    """A word that is one of the known ones; raises BadInput with the closest one."""
    if text in known:
        return str(text)
    raise BadInput(f"there is no {axis} {text!r}", _closest(text, known))


def batch_text(batch: Range | None) -> str:
    """A range of batch sizes as the table has it: `8` or `1:8:32`; empty for the default."""
    if batch is None:
        return ""
    sizes = (batch.smallest, batch.typical, batch.largest)
    return ":".join(map(str, sizes if len(set(sizes)) > 1 else sizes[:1]))


def _closest(text: str, known: Sequence[str]) -> str:
    names = [str(name) for name in known]
    close = difflib.get_close_matches(text.strip("*"), names, 1)
    return f"did you mean {close[0]}?" if close else f"choose from {', '.join(names)}"


def _rule(text: str) -> _Rule:
    """The patterns of one entry of `exclude`, by axis; raises BadInput for what is none."""
    rule = {}
    for part in text.split(","):
        axis, equals, pattern = part.strip().partition("=")
        if not equals:
            raise BadInput(f"exclude {text!r} is not a list of WORD=PATTERN", "write 'model=mobile*,target=orin'")
        rule[word("word", axis, _AXES)] = pattern
        known = _CLOSED[axis]() if axis in _CLOSED else ()
        if known and not any(fnmatchcase(str(value), pattern) for value in known):
            raise BadInput(f"exclude {text!r}: there is no {axis} {pattern!r}", _closest(pattern, known))
    return rule


def _matches(cell: Cell, target: str, rule: _Rule) -> bool:
    """Whether a cell matches every pattern of a rule; an FP32 cell matches no pattern of targets."""
    values = {**dict(_values(cell)), "target": target if cell.precision is Precision.FP16 else ""}
    return all(fnmatchcase(values[axis], pattern) for axis, pattern in rule.items())


def _values(cell: Cell) -> Iterator[tuple[str, str]]:
    """The text of every axis of a cell but the target."""
    yield from (("model", cell.model), ("precision", cell.precision.value), ("exporter", cell.exporter))
    batch = batch_text(cell.batch or Options.batch)
    yield from (("batch", batch), ("weights", cell.weights), ("data", cell.data))
