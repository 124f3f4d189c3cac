"""Where models go: a table of devices, and for each whether its engine is built here, on the device, or not at all."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploytool.errors import BadInput
from deploytool.host import machine
from deploytool.spec import Decision, EnginePlan, TargetPlan

THIS = "this"

_RTX, _FULL = "tensorrt_rtx", "tensorrt"
_TURING = "7.5"  # its kernels double the size of an engine, so it gets a file of its own


@dataclass(frozen=True)
class Target:
    """A kind of device: its CUDA compute capability, and examples of what is sold under it."""

    capability: str
    examples: str


TARGETS: Mapping[str, Target] = {
    "rtx20": Target("7.5", "GeForce RTX 20, T4, Quadro RTX"),
    "a100": Target("8.0", "A100, A30"),
    "rtx30": Target("8.6", "GeForce RTX 30, A10, RTX A6000"),
    "orin": Target("8.7", "Jetson Orin"),
    "rtx40": Target("8.9", "GeForce RTX 40, L4, L40S"),
    "h100": Target("9.0", "H100, H200, GH200"),
    "h200": Target("9.0", "H100, H200, GH200"),
    "thor": Target("11.0", "Jetson Thor"),
    "rtx50": Target("12.0", "GeForce RTX 50, RTX PRO Blackwell"),
    "gb10": Target("12.1", "GB10, DGX Spark"),
}

RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")  # what TensorRT-RTX builds for without a GPU
_MODERN = RTX_CAPABILITIES[1:]
_RTX_DEFAULT = tuple(name for name, target in TARGETS.items() if target.capability in _MODERN)


def flavour() -> str | None:
    """Which TensorRT builds here: the full one if it is installed and a GPU answers, else TensorRT-RTX, else none."""
    if machine.version("tensorrt") and machine.gpus():
        return _FULL
    return _RTX if machine.version("tensorrt-rtx") else None


def plan_engines(names: Sequence[str]) -> tuple[Decision, ...]:
    """What becomes of each target, the default set if there are none, decided before any work is done.

    Raises BadInput for an unknown target.
    """
    here = flavour()
    if not names:
        names = (THIS,) if here == _FULL else _RTX_DEFAULT
    return tuple(_decide(name, here) for name in dict.fromkeys(names))


def _decide(name: str, here: str | None) -> Decision:
    if name == THIS:
        return _this_machine(here)
    if name not in TARGETS:
        close = difflib.get_close_matches(name, (*TARGETS, THIS), 1)
        hint = f"did you mean {close[0]}?" if close else "`deploytool targets` lists them"
        raise BadInput(f"there is no target {name!r}", hint)
    capability = TARGETS[name].capability
    if here == _FULL and any(gpu.capability == capability for gpu in machine.gpus()):
        return Decision(name, TargetPlan.HERE, "this machine has that GPU", capability, _FULL)
    if capability not in RTX_CAPABILITIES:
        why = (
            f"TensorRT-RTX does not know compute capability {capability}, and TensorRT builds only on the GPU it serves"
        )
        return Decision(name, TargetPlan.ON_DEVICE, why, capability, _FULL)
    if not machine.version("tensorrt-rtx"):
        why = "tensorrt-rtx is not installed here, and TensorRT builds only on the GPU it serves"
        return Decision(name, TargetPlan.ON_DEVICE, why, capability, _FULL)
    return Decision(name, TargetPlan.HERE, "TensorRT-RTX builds for it without a GPU", capability, _RTX)


def _this_machine(here: str | None) -> Decision:
    gpus = machine.gpus()
    if not gpus:
        return Decision(THIS, TargetPlan.NOT_SERVED, "this machine has no CUDA GPU that answers")
    if here == _FULL:
        return Decision(THIS, TargetPlan.HERE, f"TensorRT builds for {gpus[0].name}", gpus[0].capability, _FULL)
    if here == _RTX and gpus[0].capability in RTX_CAPABILITIES:
        return Decision(THIS, TargetPlan.HERE, f"TensorRT-RTX builds for {gpus[0].name}", gpus[0].capability, _RTX)
    why = f"TensorRT is not installed, and TensorRT-RTX is not either or does not know {gpus[0].name}"
    return Decision(THIS, TargetPlan.NOT_SERVED, why, gpus[0].capability)


def engines(decisions: Sequence[Decision]) -> tuple[EnginePlan, ...]:
    """The engine files that serve every target that can be built here, as few as make sense, the main one first."""
    here = [decision for decision in decisions if decision.verdict is TargetPlan.HERE]
    rtx = {decision.capability for decision in here if decision.flavour == _RTX}
    modern = tuple(capability for capability in _MODERN if capability in rtx)
    wanted: list[tuple[str, tuple[str, ...]]] = []
    wanted += [(_FULL, ())] if any(decision.flavour == _FULL for decision in here) else []
    wanted += [(_RTX, () if modern == _MODERN else modern)] if modern else []
    wanted += [(_RTX, (_TURING,))] if _TURING in rtx else []
    names = ("model.plan", "engine_2.plan", "engine_3.plan")
    return tuple(EnginePlan(name, *each) for name, each in zip(names, wanted, strict=False))
