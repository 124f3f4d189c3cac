"""The corners of a model's free sizes: inputs at every combination of extreme sizes, with the source's answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploytool.data import corner_cases, synthetic
from deploytool.data.corner_cases import CornerCases
from deploytool.data.golden import Arrays, PixelsByInput
from deploytool.errors import StageFailed
from deploytool.parity.metrics import Tolerances
from deploytool.parity.replay import replay
from deploytool.results import corners
from deploytool.spec import Model, Range

_CASES = 2
_STEPS = (1, 2, 4, 8, 16, 32)

ToleranceAt = Callable[[str, Arrays], Tolerances]  # from the noise of the model on inputs of that name


@dataclass(frozen=True)
class Corner:
    """One combination of extreme sizes: inputs of these sizes, and the source's answers.

    `name` names the source and the sizes, `label` the sizes alone. `sizes` are those of every dynamic dimension but the
    batch, and `pixels` the images of the image inputs by name; a corner of the batch alone has neither.
    """

    name: str
    label: str
    inputs: Arrays
    answers: Arrays
    sizes: Mapping[str, int] = field(default_factory=dict)
    pixels: PixelsByInput = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes what a device needs of it: the pixels, the inputs that are no images, and the answers."""
        others = {name: array for name, array in self.inputs.items() if name not in self.pixels}
        corner_cases.write(path, CornerCases(self.pixels, others, self.answers))


def draw(
    model: Model,
    sizes: Mapping[str, Range],
    source: Callable[..., Arrays],
    profiles: Sequence[Mapping[str, Range]] = (),
) -> list[Corner]:
    """A corner for every combination of smallest and largest sizes except the batch; none if no size is free.

    One more corner lies inside all ranges, at sizes divisible by as little as the source accepts. With several
    profiles, the corners are those of each: an engine takes no other sizes.
    """
    if not sizes:
        return []
    drawn = [corner for profile in profiles or (sizes,) for corner in _of_profile(model, profile, source)]
    return [*{corner.name: corner for corner in drawn}.values()]


def _of_profile(model: Model, sizes: Mapping[str, Range], source: Callable[..., Arrays]) -> list[Corner]:
    ends = [sorted({(name, limits.smallest), (name, limits.largest)}) for name, limits in sorted(sizes.items())]
    extreme = [_corner(model, dict(chosen), source) for chosen in itertools.product(*ends)]
    for chosen in _inside(sizes):
        with suppress(StageFailed):  # a source may accept multiples only, such as those of 32
            return [*extreme, _corner(model, chosen, source)]
    return extreme


def _inside(sizes: Mapping[str, Range]) -> Iterator[dict[str, int]]:
    """Sizes inside every range: the largest multiples of 1, 2, 4 … without further small factors."""
    for step in _STEPS:
        chosen = {name: _awkward(limits, step) for name, limits in sorted(sizes.items())}
        if any(size is not None for size in chosen.values()):
            yield {name: sizes[name].largest if size is None else size for name, size in chosen.items()}


def _awkward(limits: Range, step: int) -> int | None:
    """The largest such size strictly inside a range except the typical one; None where there is none."""
    factors = range(limits.largest // step, limits.smallest // step, -1)
    inside = (factor for factor in factors if limits.smallest < factor * step < limits.largest)
    indivisible = (factor * step for factor in inside if all(factor % prime for prime in (2, 3, 7)))
    return next((size for size in indivisible if size != limits.typical), None)


def _corner(model: Model, sizes: Mapping[str, int], source: Callable[..., Arrays]) -> Corner:
    pixels, inputs = synthetic.draw(model, _CASES, 0, sizes)
    label = corners.label(sizes)
    return Corner(f"eager at {label}", label, inputs, replay(source, inputs), sizes, pixels)
