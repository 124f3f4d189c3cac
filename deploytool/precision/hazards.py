"""The nodes that FP16 would make wrong whatever their inputs are, and that therefore stay in FP32."""

from __future__ import annotations

from dataclasses import dataclass

from deploytool.precision import angles, internal_sums, pixels, small_constants
from deploytool.precision.fp16 import Fp16Conversion
from deploytool.precision.small_constants import SmallConstant


@dataclass(frozen=True)
class Hazards:
    """Small constants, internal sums, the nodes of angles and positions, and those that normalise pixels."""

    constants: tuple[SmallConstant, ...]
    sums: tuple[frozenset[str], ...]
    positions: frozenset[str]
    pixels: frozenset[str] = frozenset()

    @property
    def nodes(self) -> frozenset[str]:
        """The names of all of these nodes."""
        return self.positions.union(self.pixels, *self.sums, *(constant.around for constant in self.constants))


def find(conversion: Fp16Conversion) -> Hazards:
    """The hazards among the nodes of an FP32 graph that can be FP16."""
    model, names = conversion.single, [node.name for node in conversion.nodes]
    return Hazards(
        tuple(small_constants.find(model, names)),
        internal_sums.find(model, names),
        angles.find(model, names),
        pixels.find(model, names),
    )
