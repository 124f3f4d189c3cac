"""Random sides of a comparison, for property tests."""

from __future__ import annotations

from hypothesis import strategies as draw

from deploytool.diff.compare import Side, Value
from deploytool.diff.quantities import QUANTITIES

SUBJECTS = ("fp16/model.onnx", "fp16/model.onnx as converted", "rewrite/model.onnx", "ORT CPU")
NUMBERS = draw.floats(1e-6, 1e6, allow_nan=False)
SHARES = draw.integers(0, 1000).map(lambda right: right / 1000)  # of 1000 images


@draw.composite
def values(pick: draw.DrawFn, quantity: str) -> Value:
    value = pick(SHARES if QUANTITIES[quantity].share else NUMBERS)
    if quantity != "speedup":
        return Value(value)
    return Value(value, value * pick(draw.floats(0.5, 1.0)), value * pick(draw.floats(1.0, 2.0)))


@draw.composite
def sides(pick: draw.DrawFn, kind: str = "run", machine: str = "one") -> Side:
    figures = {
        quantity: {
            subject: pick(values(quantity)) for subject in pick(draw.sets(draw.sampled_from(SUBJECTS), max_size=4))
        }
        for quantity in pick(draw.sets(draw.sampled_from(sorted(QUANTITIES)), max_size=5))
    }
    names = draw.dictionaries(draw.sampled_from(["weights", "exporter", "batch", "images"]), draw.text(max_size=3))
    return Side(kind, "somewhere", "m", machine, pick(names), figures)


def side(kind: str = "run", machine: str = "one", facts: dict[str, str] | None = None, **figures: Value) -> Side:
    """A side with the given figures of one subject, `graph`."""
    values_by_quantity = {quantity: {"graph": value} for quantity, value in figures.items()}
    return Side(kind, kind, "m", machine, facts or {}, values_by_quantity)
