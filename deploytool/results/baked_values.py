"""What an exporter fixed: lines of the model that a graph knows only as they went at export, and what trying showed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from deploytool.spec import Stage

_LONGEST = 80  # characters of a line of the model that is quoted


class BakedKind(str, Enum):
    """What became a constant."""

    BRANCH = "branch"
    SIZE = "size"
    VALUE = "value"


class Origin(str, Enum):
    """What it was taken from: the values of an input, or only sizes, which other sizes and batches try out."""

    DATA = "data"
    SHAPE = "shape"


@dataclass(frozen=True)
class BakedValue:
    """One line of the model that was fixed in the artifact of `stage`, and what became of it when it was tried.

    `file` is relative to the folder of the model's own file, `source` the line itself. The other way of a `guard` only
    raises. Of `tried` inputs `apart` go another way there than at export, or have another value there. `shown_by` is an
    input on which the artifact is no longer the model, empty if none was found, and `error` how far off it is there,
    relative to the largest output (None where it does not run at all).
    """

    stage: Stage
    what: BakedKind
    origin: Origin
    file: str
    line: int
    source: str
    guard: bool
    tried: int
    apart: int
    shown_by: str = ""
    error: float | None = None

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.file}:{self.line}"

    @property
    def wrong(self) -> bool:
        """Whether an input shows that the artifact is no longer the model."""
        return bool(self.shown_by)

    @property
    def doubtful(self) -> bool:
        """Whether some input may show it, though none that was tried does."""
        return self.origin is Origin.DATA and not self.guard and not self.wrong


def describe(fixed: BakedValue) -> str:
    """One line that says what was fixed, and what trying it showed."""
    said = f" ({fixed.source})" if 0 < len(fixed.source) <= _LONGEST else ""
    begin = f"{fixed.place}: a {fixed.what.value} was fixed at export{said}"
    if fixed.wrong:
        off = "fails" if fixed.error is None else f"is {fixed.error:.1e} off"
        return f"{begin}, and {fixed.stage} {off} at {fixed.shown_by}"
    if fixed.origin is Origin.SHAPE:
        return f"{begin} by sizes alone; the answers at other batches and sizes are right"
    if fixed.guard:
        return f"{begin}; its other way only raises"
    way = "takes the other way" if fixed.what is BakedKind.BRANCH else "has another value there"
    if not fixed.apart:
        return f"{begin}; no input that was tried {way} ({fixed.tried} were)"
    return f"{begin}; {fixed.apart} of {fixed.tried} inputs that were tried went another way there, with right answers"


MEND = "let it follow its input: sizes as they come, torch.where for if, no .item()"


def wrong_lines(every: Iterable[BakedValue]) -> tuple[str, ...]:
    """A line for each place where an artifact is no longer the model, each place once."""
    return _each_place(fixed for fixed in every if fixed.wrong)


def doubtful_lines(every: Iterable[BakedValue]) -> tuple[str, ...]:
    """A line for each place that could matter and was not seen to, each place once."""
    every = tuple(every)
    known = {fixed.place for fixed in every if fixed.wrong}
    return _each_place(fixed for fixed in every if fixed.doubtful and fixed.place not in known)


def harmless_lines(every: Iterable[BakedValue]) -> tuple[str, ...]:
    """One line for all places where a size was fixed that other sizes and batches do not mind, and one for guards."""
    every = [fixed for fixed in every if not fixed.wrong and not fixed.doubtful]
    sizes = dict.fromkeys(fixed.place for fixed in every if fixed.origin is Origin.SHAPE)
    guards = dict.fromkeys(fixed.place for fixed in every if fixed.origin is Origin.DATA)
    lines = []
    if sizes:
        lines.append(f"fixed at export by sizes alone, right at the other batches and sizes: {_few(sizes)}")
    if guards:
        lines.append(f"fixed at export, where the other way only raises: {_few(guards)}")
    return tuple(lines)


def _each_place(every: Iterable[BakedValue]) -> tuple[str, ...]:
    return tuple({fixed.place: describe(fixed) for fixed in reversed(tuple(every))}.values())[::-1]


def _few(places: Iterable[str], most: int = 5) -> str:
    every = list(places)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
