"""Baked values: lines of the model that became constants at export, and the result of testing other inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from deploytool.spec import Stage

_MAX_QUOTE = 80  # characters; longer source lines are not quoted


class BakedKind(str, Enum):
    """What became a constant."""

    BRANCH = "branch"
    SIZE = "size"
    VALUE = "value"


class Origin(str, Enum):
    """What the constant was computed from: input values, or only input sizes (tested at other batches and sizes)."""

    DATA = "data"
    SHAPE = "shape"


@dataclass(frozen=True)
class BakedValue:
    """A line of the model that became a constant in the artifact of `stage`, and the result of testing other inputs.

    `file` is relative to the folder of the model's own file, and `source` is the text of the line. `guard` is true if
    the other branch only raises an error. Of `inputs_tried` inputs, `inputs_deviating` take another branch or have
    another value than the example inputs of the export. `counterexample` names an input for which the artifact differs
    from the model (empty if none was found); `error` is the difference relative to the largest output, or None if the
    artifact does not run on that input.
    """

    stage: Stage
    kind: BakedKind
    origin: Origin
    file: str
    line: int
    source: str
    guard: bool
    inputs_tried: int
    inputs_deviating: int
    counterexample: str = ""
    error: float | None = None

    @property
    def location(self) -> str:
        """File and line number."""
        return f"{self.file}:{self.line}"

    @property
    def wrong(self) -> bool:
        """Whether the artifact differs from the model for a known input."""
        return bool(self.counterexample)

    @property
    def doubtful(self) -> bool:
        """Whether the artifact may differ from the model for an input that was not tested."""
        return self.origin is Origin.DATA and not self.guard and not self.wrong


def describe(baked: BakedValue) -> str:
    """One line: what became a constant, and the result of testing other inputs."""
    quote = f" ({baked.source})" if 0 < len(baked.source) <= _MAX_QUOTE else ""
    subject = f"{baked.location}: a {baked.kind.value} was fixed at export{quote}"
    if baked.wrong:
        effect = "fails" if baked.error is None else f"deviates by {baked.error:.1e}"
        return f"{subject}, and {baked.stage} {effect} at {baked.counterexample}"
    if baked.origin is Origin.SHAPE:
        return f"{subject}; it depends on input sizes only, and the results at other batches and sizes are correct"
    if baked.guard:
        return f"{subject}; the other branch only raises an error"
    deviation = "takes the other branch" if baked.kind is BakedKind.BRANCH else "changes the value"
    if not baked.inputs_deviating:
        return f"{subject}; none of the {baked.inputs_tried} tested inputs {deviation}"
    return (
        f"{subject}; {baked.inputs_deviating} of {baked.inputs_tried} tested inputs deviate from it, "
        "with correct results"
    )


REMEDY = "compute it from the input: use shapes instead of constant sizes, torch.where instead of if, no .item()"


def wrong_lines(values: Iterable[BakedValue]) -> tuple[str, ...]:
    """One line for each location where an artifact differs from the model."""
    return _one_per_location(baked for baked in values if baked.wrong)


def doubtful_lines(values: Iterable[BakedValue]) -> tuple[str, ...]:
    """One line for each location that may matter, although no tested input shows a difference."""
    values = tuple(values)
    wrong_locations = {baked.location for baked in values if baked.wrong}
    return _one_per_location(baked for baked in values if baked.doubtful and baked.location not in wrong_locations)


def harmless_lines(values: Iterable[BakedValue]) -> tuple[str, ...]:
    """At most two lines: the locations that depend on sizes only and are correct, and the locations of guards."""
    harmless = [baked for baked in values if not baked.wrong and not baked.doubtful]
    sizes = dict.fromkeys(baked.location for baked in harmless if baked.origin is Origin.SHAPE)
    guards = dict.fromkeys(baked.location for baked in harmless if baked.origin is Origin.DATA)
    lines = []
    if sizes:
        lines.append(f"fixed at export from sizes only, correct at other batches and sizes: {_shorten(sizes)}")
    if guards:
        lines.append(f"fixed at export, the other branch only raises an error: {_shorten(guards)}")
    return tuple(lines)


def _one_per_location(values: Iterable[BakedValue]) -> tuple[str, ...]:
    """The description of the first value at each location."""
    return tuple({baked.location: describe(baked) for baked in reversed(tuple(values))}.values())[::-1]


def _shorten(locations: Iterable[str], limit: int = 5) -> str:
    """The first locations, separated by commas, and the number of the others."""
    names = list(locations)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
