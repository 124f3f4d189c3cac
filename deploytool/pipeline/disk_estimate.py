"""Estimates the disk space that a run needs, from the sizes of its weights and golden data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploytool.host import disk, memory_estimate
from deploytool.spec import Model, Options, Stage
from deploytool.stages.registry import STAGES

LEAST = 4 << 20  # bytes of everything but weights and golden data; measured: below 1 MB
_GOLDEN = 3  # copies of the golden inputs: themselves, as images, edge cases, and some in the bundle


def check(recipe: Sequence[Stage], model: Model, options: Options, home: Path, weights: int) -> None:
    """Raises ResourceExhausted if the remaining stages need more disk space than is free at `home`."""
    disk.check(home, needed(recipe, model, options, weights), f"a run of {model.name}")


def needed(recipe: Sequence[Stage], model: Model, options: Options, weights: int) -> float:
    """The largest number of bytes that these stages write, for weights of `weights` bytes."""
    engines = len(options.engines)
    copies = sum(STAGES[stage].copies + engines * STAGES[stage].engine_copies for stage in recipe)
    return LEAST + copies * weights + _golden(model, options)


def _golden(model: Model, options: Options) -> float:
    """The bytes of the golden inputs, with every dynamic dimension at its typical size."""
    typical = {name: span.typical for name, span in options.sizes.items()}
    return _GOLDEN * options.images * memory_estimate.case_bytes(model.inputs, typical)
