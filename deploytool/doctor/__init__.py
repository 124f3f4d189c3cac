"""Says what this machine can make, build, run and verify, and which known traps it has fallen into; mends nothing."""

from __future__ import annotations

from dataclasses import dataclass

from deploytool.doctor import capabilities, inventory, traps
from deploytool.doctor.capabilities import Capability
from deploytool.doctor.inventory import Inventory
from deploytool.doctor.traps import Trap
from deploytool.errors import MissingBackend


@dataclass(frozen=True)
class Diagnosis:
    """What is here, what can be done with it, and what stands in the way; `target` is what was asked for, or empty."""

    target: str
    found: Inventory
    abilities: tuple[Capability, ...]
    traps: tuple[Trap, ...]

    @property
    def failure(self) -> MissingBackend | None:
        """Why the target cannot be built for here; where none was asked for, why no bundle can be run."""
        name = self.target or capabilities.RUN
        asked = next(ability for ability in self.abilities if ability.name == name)
        if asked.able:
            return None
        what = f"no engine for {name} can be built here" if self.target else "no bundle can be run here"
        return MissingBackend(f"{what}: {asked.why}", asked.mend)


def examine(target: str = "") -> Diagnosis:
    """Looks at this machine; whatever might crash is tried in a child process.

    `target` is a name of `deploytool.targets`; raises BadInput for any other.
    """
    wanted = capabilities.decided(target)
    here = inventory.collect()
    caught = traps.find_traps(here)
    return Diagnosis(target, here, capabilities.capabilities(here, wanted, caught), caught)
