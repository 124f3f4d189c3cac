"""Capabilities of this machine: make graphs, build engines, run bundles, sign, and check signatures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from deploytool import targets
from deploytool.doctor.inventory import OPENVINO, RUNTIMES, Inventory
from deploytool.doctor.traps import Trap, TrapName
from deploytool.spec import Decision, TargetPlan
from deploytool.targets import TARGETS, TENSORRT, THIS

GRAPHS, RUN, SIGN, CHECK_SIGNATURES = "make graphs", "run", "sign", "check signatures"
HOST = ("torch", "safetensors", "onnx", "onnxscript", "onnxsim")  # packages that exporting needs
_RUNTIME_TRAPS = (TrapName.BOTH_RUNTIMES, TrapName.BROKEN_RUNTIME)
_REMEDIES: Mapping[TargetPlan, str] = {
    TargetPlan.ON_DEVICE: "build it there: python -m deploytool.device build BUNDLE",
    TargetPlan.NOT_SERVED: "install the NVIDIA driver, and TensorRT",
}


@dataclass(frozen=True)
class Capability:
    """One task, whether it is available, the reason, and the remedy if it is not.

    `name` is one of the constants of this module, or the name of the target that an engine is built for.
    """

    name: str
    available: bool
    reason: str
    remedy: str = ""


def is_device(inventory: Inventory) -> bool:
    """Whether none of the packages that exporting needs is installed."""
    return not any(inventory.version(name) for name in HOST)


def plan_targets(target: str) -> tuple[Decision, ...]:
    """Where the engine of a target is built, or of all targets if `target` is empty; BadInput for an unknown name."""
    return targets.plan_engines((target,) if target else (*TARGETS, THIS))


def capabilities(inventory: Inventory, plan: Sequence[Decision], traps: Sequence[Trap]) -> tuple[Capability, ...]:
    """All capabilities, in the order in which a model needs them."""
    return (
        _make_graphs(inventory),
        *_build_engines(plan, traps),
        _run_bundles(inventory, traps),
        _with_packages(inventory, SIGN, ("model-signing", "pyopenssl"), "sign"),
        _with_packages(inventory, CHECK_SIGNATURES, ("cryptography",), "verify"),
    )


def _make_graphs(inventory: Inventory) -> Capability:
    missing = [name for name in HOST if not inventory.version(name)]
    missing += [] if any(inventory.version(name) for name in RUNTIMES) else ["onnxruntime"]
    if missing:
        return Capability(GRAPHS, False, f"{', '.join(missing)} not installed", "pip install 'deploytool[cpu]'")
    return Capability(GRAPHS, True, ", ".join(f"{name} {inventory.version(name)}" for name in ("torch", "onnx")))


def _build_engines(plan: Sequence[Decision], traps: Sequence[Trap]) -> Iterator[Capability]:
    placeholder = next((trap for trap in traps if trap.name is TrapName.PLACEHOLDER), None)
    for decision in plan:
        available = decision.verdict is TargetPlan.HERE
        if available and decision.flavour == TENSORRT and placeholder:
            yield Capability(decision.target, False, placeholder.problem, placeholder.remedy)
        else:
            yield Capability(decision.target, available, decision.why, _REMEDIES.get(decision.verdict, ""))


def _run_bundles(inventory: Inventory, traps: Sequence[Trap]) -> Capability:
    working = [provider.name for provider in inventory.providers if provider.starts]
    if working:
        return Capability(RUN, True, ", ".join(working))
    if version := inventory.version(OPENVINO):
        return Capability(RUN, True, f"OpenVINO {version}, which was not started here")
    install = "pip install onnxruntime, which needs no GPU"
    remedy = next((trap.remedy for trap in traps if trap.name in _RUNTIME_TRAPS), install)
    failures = [f"{provider.name}: {provider.reason}" for provider in inventory.providers]
    return Capability(RUN, False, "; ".join(failures) or "ONNX Runtime is not installed", remedy)


def _with_packages(inventory: Inventory, name: str, packages: Sequence[str], extra: str) -> Capability:
    """A capability that needs some packages, which an extra of deploytool installs."""
    missing = [package for package in packages if not inventory.version(package)]
    if missing:
        return Capability(name, False, f"{missing[0]} is not installed", f"pip install 'deploytool[{extra}]'")
    return Capability(name, True, f"{packages[0]} {inventory.version(packages[0])}")
