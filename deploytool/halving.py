"""Finds which of many switches must be off for a thing to hold, in few tries."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def culprits(switches: Sequence[str], holds: Callable[[Sequence[str]], bool], most: int) -> tuple[str, ...] | None:
    """A set of at most `most` switches with which off the thing holds, each of them needed; None if there is none.

    `holds(off)` tries; it is taken not to hold with none off, and to hold with more off wherever it holds with fewer.
    The answer is tried itself, so where that is not so, something else is found or nothing, and never what does not
    hold. Of several answers it is the one whose last switch comes first. Each culprit takes about log2(n) tries.
    """
    off: tuple[str, ...] = ()
    left = tuple(switches)
    if not holds(left):
        return None
    while len(off) < most and left:
        few, many = 0, len(left)  # it does not hold with this many of the first off, and does with that many
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (few, middle) if holds((*left[:middle], *off)) else (middle, many)
        off, left = (left[many - 1], *off), left[: many - 1]
        if holds(off):
            return off
    return None
