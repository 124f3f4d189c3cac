"""Writes two numbers that a message compares with so many digits that they differ."""

from __future__ import annotations

from collections.abc import Callable

_MOST = 17  # digits that tell any two floating-point numbers apart


def apart(value: float, limit: float, text: Callable[[float, int], str], digits: int) -> tuple[str, str]:
    """Both numbers as `text` writes them with so many digits, or with as many more as it takes to tell them apart."""
    written = text(value, digits), text(limit, digits)
    while written[0] == written[1] and value != limit and digits < _MOST:
        digits += 1
        written = text(value, digits), text(limit, digits)
    return written
