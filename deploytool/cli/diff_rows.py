"""The rows of the tables of `deploytool diff`: values with their units, and the amount of a change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploytool.host import disk

if TYPE_CHECKING:
    from deploytool.diff.compare import FigureChange, Value

_NONE = "–"
_DIGEST = 64  # characters of a SHA-256


def row(change: FigureChange) -> tuple[str, ...]:
    """Quantity, subject, value in A, value in B, and the change."""
    return (change.quantity, change.subject, _value(change, change.a), _value(change, change.b), _amount(change))


def fact(text: str | None) -> str:
    """A fact as text; digests are shortened."""
    if text is None:
        return _NONE
    return text[:12] if len(text) == _DIGEST and text.isalnum() else text


def _value(change: FigureChange, value: Value | None) -> str:
    """A value with its unit and interval."""
    if value is None:
        return _NONE
    number, interval = value.value, ""
    if value.low is not None and value.high is not None:
        interval = f" ({value.low:.2f}–{value.high:.2f})"
    forms = {
        **dict.fromkeys(("parity", "tolerance", "smallest_caught"), f"{number:.1e}"),
        **dict.fromkeys(("p50", "p90", "p99"), f"{number:.2f} ms"),
        **dict.fromkeys(("noise", "speedup"), f"{number:.2f}×"),
        **dict.fromkeys(("top1", "top5", "accuracy", "fp16_layers", "caught"), f"{number:.1%}"),
        "size": disk.size(number),
        "build_time": f"{number:.1f} s",
    }
    return forms.get(change.quantity, f"{number:.4g}") + interval


def _amount(change: FigureChange) -> str:
    """The amount of a change, and whether it is better or worse."""
    from deploytool.diff.quantities import QUANTITIES

    quantity = QUANTITIES[change.quantity]
    if change.a is None or change.b is None:
        return "only in B" if change.a is None else "only in A"
    if not change.comparable:
        return "other machine"
    if change.significant is False:
        return "no significant difference"
    more = change.b.value > change.a.value
    direction = "worse" if more == quantity.more_is_worse else "better"
    if quantity.share:
        return f"{(change.b.value - change.a.value) * 100:+.1f} points, {direction}"
    if change.factor is None:
        return direction
    if quantity.units.keys() & {"ms", "MB"}:
        return f"{change.factor - 1:+.1%}, {direction}"
    return f"{change.factor:.3g}×, {direction}"
