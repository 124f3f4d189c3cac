"""The corners of the sizes a model must serve: inputs at every combination of extremes, with the source's answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from deploytool.data import synthetic
from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.parity.metrics import Tolerances
from deploytool.parity.replay import replay
from deploytool.spec import Model, Range

_CASES = 2
_STEPS = (1, 2, 4, 8, 16, 32)

At = Callable[[str, Arrays], Tolerances]  # what the noise of the model lets pass at inputs of that name


@dataclass(frozen=True)
class Corner:
    """One combination of extreme sizes: inputs of these sizes, and the source's answers.

    `name` says who gave them and for what, `asked` for what alone.
    """

    name: str
    asked: str
    inputs: Arrays
    answers: Arrays


def draw(model: Model, sizes: Mapping[str, Range], source: Callable[..., Arrays]) -> list[Corner]:
    """A corner for every combination of smallest and largest sizes, the batch aside; none if nothing else is free.

    One more lies inside all ranges, at sizes that no one thinks of: as odd as the source takes them.
    """
    if not sizes:
        return []
    ends = [sorted({(word, limits.smallest), (word, limits.largest)}) for word, limits in sorted(sizes.items())]
    found = [_corner(model, dict(chosen), source) for chosen in itertools.product(*ends)]
    for chosen in _inside(sizes):
        with suppress(StageFailed):  # a source may take multiples alone: of 32, it may be
            return [*found, _corner(model, chosen, source)]
    return found


def _inside(sizes: Mapping[str, Range]) -> Iterator[dict[str, int]]:
    """Sizes inside every range, the largest multiples of 1, 2, 4 … that nothing else divides well."""
    for step in _STEPS:
        chosen = {word: _awkward(limits, step) for word, limits in sorted(sizes.items())}
        if any(size is not None for size in chosen.values()):
            yield {word: sizes[word].largest if size is None else size for word, size in chosen.items()}


def _awkward(limits: Range, step: int) -> int | None:
    """The largest such size between the ends of a range, the typical one aside; None where there is none."""
    between = range(limits.largest // step, limits.smallest // step, -1)
    inside = (count for count in between if limits.smallest < count * step < limits.largest)
    odd = (count * step for count in inside if all(count % each for each in (2, 3, 7)))
    return next((size for size in odd if size != limits.typical), None)


def _corner(model: Model, sizes: Mapping[str, int], source: Callable[..., Arrays]) -> Corner:
    _, inputs = synthetic.draw(model, _CASES, 0, sizes)
    name = ", ".join(f"{word} {size}" for word, size in sizes.items())
    return Corner(f"eager at {name}", name, inputs, replay(source, inputs))
