"""Sides that were never measured, drawn at random for property tests."""

from __future__ import annotations

from hypothesis import strategies as draw

from deploytool.diff import Side, Value
from deploytool.diff.quantities import QUANTITIES

PLACES = ("fp16/model.onnx", "fp16/model.onnx as converted", "rewrite/model.onnx", "ORT CPU")
NUMBERS = draw.floats(1e-6, 1e6, allow_nan=False)
SHARES = draw.integers(0, 1000).map(lambda right: right / 1000)  # of a thousand images


@draw.composite
def values(any_: draw.DrawFn, quantity: str) -> Value:
    value = any_(SHARES if QUANTITIES[quantity].share else NUMBERS)
    if quantity != "speedup":
        return Value(value)
    return Value(value, value * any_(draw.floats(0.5, 1.0)), value * any_(draw.floats(1.0, 2.0)))


@draw.composite
def sides(any_: draw.DrawFn, kind: str = "run", machine: str = "one") -> Side:
    figures = {
        quantity: {place: any_(values(quantity)) for place in any_(draw.sets(draw.sampled_from(PLACES), max_size=4))}
        for quantity in any_(draw.sets(draw.sampled_from(sorted(QUANTITIES)), max_size=5))
    }
    names = draw.dictionaries(draw.sampled_from(["weights", "exporter", "batch", "images"]), draw.text(max_size=3))
    return Side(kind, "somewhere", "m", machine, any_(names), figures)


def side(kind: str = "run", machine: str = "one", facts: dict[str, str] | None = None, **figures: Value) -> Side:
    """A side with one place, `graph`, and the figures that are named."""
    each = {quantity: {"graph": value} for quantity, value in figures.items()}
    return Side(kind, kind, "m", machine, facts or {}, each)
