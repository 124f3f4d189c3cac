"""The corners of the sizes a model must serve: inputs at every combination of extremes, with the source's answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deploytool import samples
from deploytool.golden import Arrays
from deploytool.measure.parity import Tolerances
from deploytool.measure.replay import replay
from deploytool.spec import Model, Range

_CASES = 2

At = Callable[[str, Arrays], Tolerances]  # what the noise of the model lets pass at inputs of that name


@dataclass(frozen=True)
class Corner:
    """One combination of extreme sizes: inputs of these sizes, and the source's answers."""

    name: str
    inputs: Arrays
    answers: Arrays


def corners(model: Model, sizes: Mapping[str, Range], source: Callable[..., Arrays]) -> list[Corner]:
    """A corner for every combination of smallest and largest sizes, the batch aside; none if nothing else is free."""
    if not sizes:
        return []
    ends = [sorted({(word, limits.smallest), (word, limits.largest)}) for word, limits in sorted(sizes.items())]
    return [_corner(model, dict(chosen), source) for chosen in itertools.product(*ends)]


def _corner(model: Model, sizes: Mapping[str, int], source: Callable[..., Arrays]) -> Corner:
    _, inputs = samples.draw(model, _CASES, 0, sizes)
    name = ", ".join(f"{word} {size}" for word, size in sizes.items())
    return Corner(f"eager at {name}", inputs, replay(source, inputs))
