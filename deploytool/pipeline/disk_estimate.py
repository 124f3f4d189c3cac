"""What a run will take of the disk, from the bytes of its weights and golden data: asked before its stages work."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploytool.host import disk
from deploytool.spec import Model, Options, Stage, Tensor
from deploytool.stages.registry import STAGES

LEAST = 4 << 20  # bytes for all but weights and golden data: below 1 MB where it was measured
_GOLDEN = 3  # times the golden inputs: as they are, as pictures, at the edges, and some of them in the bundle


def check(recipe: Sequence[Stage], model: Model, options: Options, home: Path, weights: int) -> None:
    """Raises ResourceExhausted if the remaining stages need more disk space than is free at `home`."""
    disk.check(home, needed(recipe, model, options, weights), f"a run of {model.name}")


def needed(recipe: Sequence[Stage], model: Model, options: Options, weights: int) -> float:
    """The bytes that these stages leave, at the most, for weights of so many bytes."""
    engines = len(options.engines)
    copies = sum(STAGES[verb].copies + engines * STAGES[verb].engine_copies for verb in recipe)
    return LEAST + copies * weights + _golden(model, options)


def _golden(model: Model, options: Options) -> float:
    """The bytes of golden inputs, free sizes as they typically are."""
    typical = {name: each.typical for name, each in options.sizes.items()}
    return _GOLDEN * options.images * sum(_bytes(tensor, typical) for tensor in model.inputs)


def _bytes(tensor: Tensor, sides: Mapping[str, int]) -> int:
    """The bytes of one case."""
    numbers = math.prod(sides.get(side, 1) if isinstance(side, str) else side for side in tensor.shape[1:])
    return numbers * int(tensor.dtype.lstrip(string.ascii_letters) or 8) // 8  # the name of a type ends with its bits
