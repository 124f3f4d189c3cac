"""Diagnoses this machine: what it can make, build, run and verify, and known traps; changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from deploytool.doctor import capabilities as doctor_capabilities
from deploytool.doctor import inventory as doctor_inventory
from deploytool.doctor import traps as doctor_traps
from deploytool.doctor.capabilities import Capability
from deploytool.doctor.inventory import Inventory
from deploytool.doctor.traps import Trap
from deploytool.errors import MissingBackend


@dataclass(frozen=True)
class Diagnosis:
    """The inventory of a machine, its capabilities and its traps; `target` is the requested target, or empty."""

    target: str
    inventory: Inventory
    capabilities: tuple[Capability, ...]
    traps: tuple[Trap, ...]

    @property
    def failure(self) -> MissingBackend | None:
        """Why no engine can be built for the target or, without a target, why no bundle can be run; None if it can."""
        name = self.target or doctor_capabilities.RUN
        required = next(capability for capability in self.capabilities if capability.name == name)
        if required.available:
            return None
        what = f"no engine for {name} can be built here" if self.target else "no bundle can be run here"
        return MissingBackend(f"{what}: {required.reason}", required.remedy)


def examine(target: str = "") -> Diagnosis:
    """Diagnoses this machine; whatever may crash is tried in a child process.

    `target` is a name of `deploytool.targets`; raises BadInput for any other name.
    """
    plan = doctor_capabilities.plan_targets(target)
    inventory = doctor_inventory.collect()
    traps = doctor_traps.find_traps(inventory)
    return Diagnosis(target, inventory, doctor_capabilities.capabilities(inventory, plan, traps), traps)
