"""What this machine can do for a model: make its graphs, build its engines, run it, and verify where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from deploytool import targets
from deploytool.doctor.inventory import RUNTIMES, Inventory
from deploytool.doctor.traps import Name, Trap
from deploytool.spec import Decision, TargetPlan
from deploytool.targets import FULL, TARGETS, THIS

GRAPHS, RUN, SIGN, SIGNED = "make graphs", "run", "sign", "check signatures"
HOST = ("torch", "safetensors", "onnx", "onnxscript", "onnxsim")
_NO_RUNTIME = (Name.BOTH_RUNTIMES, Name.BROKEN_RUNTIME)
_MENDS: Mapping[TargetPlan, str] = {
    TargetPlan.ON_DEVICE: "build it there: python -m deploytool.device build BUNDLE",
    TargetPlan.NOT_SERVED: "install the NVIDIA driver, and TensorRT",
}


@dataclass(frozen=True)
class Capability:
    """Something one may want to do here, whether it can be done, by what or why not, and what then mends it.

    Its name is one of this module's words, or that of a target whose engine is to be built.
    """

    name: str
    able: bool
    why: str
    mend: str = ""


def is_device(found: Inventory) -> bool:
    """Whether none of the libraries is here that exporting needs."""
    return not any(found.version(name) for name in HOST)


def decided(target: str) -> tuple[Decision, ...]:
    """What becomes of the target, of all of them if it is empty; raises BadInput if there is none of that name."""
    return targets.plan_engines((target,) if target else (*TARGETS, THIS))


def capabilities(found: Inventory, wanted: Sequence[Decision], caught: Sequence[Trap]) -> tuple[Capability, ...]:
    """Everything one may want of a machine, in the order of a model's life."""
    return (
        _graphs(found),
        *_engines(wanted, caught),
        _runs(found, caught),
        _by(found, SIGN, ("model-signing", "pyopenssl"), "sign"),
        _by(found, SIGNED, ("cryptography",), "verify"),
    )


def _graphs(found: Inventory) -> Capability:
    missing = [name for name in HOST if not found.version(name)]
    missing += [] if any(found.version(name) for name in RUNTIMES) else ["onnxruntime"]
    if missing:
        return Capability(GRAPHS, False, f"{', '.join(missing)} not installed", "pip install 'deploytool[cpu]'")
    return Capability(GRAPHS, True, ", ".join(f"{name} {found.version(name)}" for name in ("torch", "onnx")))


def _engines(wanted: Sequence[Decision], caught: Sequence[Trap]) -> Iterator[Capability]:
    spoilt = next((trap for trap in caught if trap.name is Name.PLACEHOLDER), None)
    for decision in wanted:
        if decision.verdict is TargetPlan.HERE and decision.flavour == FULL and spoilt:
            yield Capability(decision.target, False, spoilt.problem, spoilt.mend)
        else:
            mend = _MENDS.get(decision.verdict, "")
            yield Capability(decision.target, decision.verdict is TargetPlan.HERE, decision.why, mend)


def _runs(found: Inventory, caught: Sequence[Trap]) -> Capability:
    starts = [each.name for each in found.providers if each.starts]
    if starts:
        return Capability(RUN, True, ", ".join(starts))
    mend = next(
        (trap.mend for trap in caught if trap.name in _NO_RUNTIME), "pip install onnxruntime, which needs no GPU"
    )
    lost = [f"{each.name}: {each.reason}" for each in found.providers]
    return Capability(RUN, False, "; ".join(lost) or "ONNX Runtime is not installed", mend)


def _by(found: Inventory, name: str, needed: Sequence[str], extra: str) -> Capability:
    missing = [one for one in needed if not found.version(one)]
    if missing:
        return Capability(name, False, f"{missing[0]} is not installed", f"pip install 'deploytool[{extra}]'")
    return Capability(name, True, f"{needed[0]} {found.version(needed[0])}")
