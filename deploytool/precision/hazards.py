"""The nodes that FP16 or BF16 would make wrong whatever their inputs are, and that therefore stay in FP32."""

from __future__ import annotations

from dataclasses import dataclass

from deploytool.backends.narrow_floats import BF16
from deploytool.precision import angles, internal_sums, pixels, small_constants, whole_numbers
from deploytool.precision.conversion import Conversion
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

    def lines(self, title: str) -> list[str]:
        """What stays in FP32, a line for each kind and for each number that the type of this name cannot represent."""
        kinds = {
            "sums in norms, means and logarithms": len(frozenset[str]().union(*self.sums)),
            "angles and positions": len(self.positions),
            "steps that normalise pixels": len(self.pixels),
        }
        lines = [
            f"{what} stay in FP32: {count} {'nodes' if count > 1 else 'node'}" for what, count in kinds.items() if count
        ]
        for number in dict.fromkeys(constant.number for constant in self.constants):
            uses = [constant for constant in self.constants if constant.number == number]
            nodes = len({node for constant in uses for node in constant.around})
            more = f" and {len(uses) - 1} more" if len(uses) > 1 else ""
            where = f"the {nodes} nodes around {uses[0].node}{more} stay in FP32"
            lines.append(f"{title} cannot represent {number:.3g}: {where}")
        return lines


def find(conversion: Conversion) -> Hazards:
    """The hazards among the nodes of an FP32 graph that can be in the narrow type.

    In BF16, whose whole numbers end at 256, the positions include all arithmetic on sizes, counts and masks.
    """
    model, names = conversion.single, [node.name for node in conversion.nodes]
    counted = whole_numbers.find(model, names) if conversion.narrow is BF16 else frozenset[str]()
    return Hazards(
        tuple(small_constants.find(model, names, conversion.narrow)),
        internal_sums.find(model, names),
        angles.find(model, names) | counted,
        pixels.find(model, names),
    )
