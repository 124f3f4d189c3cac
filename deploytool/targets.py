"""The flavours of TensorRT and the target devices; decides which engines are built here or on the device."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deploytool.errors import BadInput
from deploytool.host import machine
from deploytool.spec import Decision, EnginePlan, Precision, TargetPlan

THIS = "this"
TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt_rtx"  # the flavours, by the names of their Python modules


@dataclass(frozen=True)
class Flavour:
    """A TensorRT product: its title, its Python distribution, and the GPUs it builds engines for.

    `cross_builds` are the compute capabilities for which it builds without a GPU; if empty, it builds only on the GPU
    that runs the engine. `default_capabilities` are those of an engine without explicit ones; `coverage` describes
    them in text.
    """

    title: str
    distribution: str
    coverage: str
    cross_builds: tuple[str, ...] = ()
    default_capabilities: tuple[str, ...] = ()

    @property
    def needs_gpu(self) -> bool:
        """Whether it builds only on the GPU that runs the engine."""
        return not self.cross_builds

    def supports(self, capability: str) -> bool:
        """Whether it builds engines for a compute capability."""
        return self.needs_gpu or capability in self.cross_builds

    @property
    def version(self) -> str | None:
        """The installed version; None if it is not installed."""
        return machine.version(self.distribution)


FLAVOURS: Mapping[str, Flavour] = {  # TensorRT is preferred if both can build: it tunes for the GPU of this machine
    TENSORRT: Flavour("TensorRT", "tensorrt", coverage="the GPU it was built on"),
    TENSORRT_RTX: Flavour(
        title="TensorRT-RTX",
        distribution="tensorrt-rtx",
        coverage="8.0, 8.6, 8.9, 12.0 and later",
        cross_builds=("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
        default_capabilities=("8.0", "8.6", "8.9", "12.0", "12.1"),
    ),
}
DISTRIBUTIONS = tuple(flavour.distribution for flavour in FLAVOURS.values())
TURING = "7.5"  # not in the default: its kernels would double the size of the engine, so it gets a separate file

_FIRST_CAPABILITIES = {Precision.BF16: "8.0", Precision.FP8: "8.9"}  # of the GPUs that compute in it; else all do


@dataclass(frozen=True)
class Target:
    """A kind of device: its CUDA compute capability, and examples of products."""

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
    "b200": Target("10.0", "B200, GB200"),
    "b300": Target("10.3", "B300, GB300"),
    "thor": Target("11.0", "Jetson Thor"),
    "rtx50": Target("12.0", "GeForce RTX 50, RTX PRO Blackwell"),
    "gb10": Target("12.1", "GB10, DGX Spark"),
}


def flavour() -> str | None:
    """The flavour that builds here: TensorRT if it is installed and there is a GPU, else TensorRT-RTX, else None."""
    usable = (
        name for name, product in FLAVOURS.items() if product.version and (machine.gpus() or not product.needs_gpu)
    )
    return next(usable, None)


def plan_engines(names: Sequence[str]) -> tuple[Decision, ...]:
    """The decision for each target, or for the default targets if `names` is empty.

    Raises BadInput for an unknown target.
    """
    here = flavour()
    if not names:
        names = (THIS,) if here == TENSORRT else _default_targets()
    return tuple(_decide(name, here) for name in dict.fromkeys(names))


def _default_targets() -> tuple[str, ...]:
    capabilities = FLAVOURS[TENSORRT_RTX].default_capabilities
    return tuple(name for name, target in TARGETS.items() if target.capability in capabilities)


def _decide(name: str, here: str | None) -> Decision:
    if name == THIS:
        return _this_machine(here)
    if name not in TARGETS:
        close = difflib.get_close_matches(name, (*TARGETS, THIS), 1)
        hint = f"did you mean {close[0]}?" if close else "`deploytool targets` lists them"
        raise BadInput(f"there is no target {name!r}", hint)
    capability = TARGETS[name].capability
    if here == TENSORRT and any(gpu.capability == capability for gpu in machine.gpus()):
        return Decision(name, TargetPlan.HERE, "this machine has that GPU", capability, TENSORRT)
    if not FLAVOURS[TENSORRT_RTX].supports(capability):
        why = (
            f"TensorRT-RTX does not support compute capability {capability}, and TensorRT builds only on the target GPU"
        )
        return Decision(name, TargetPlan.ON_DEVICE, why, capability, TENSORRT)
    if not FLAVOURS[TENSORRT_RTX].version:
        why = "tensorrt-rtx is not installed here, and TensorRT builds only on the target GPU"
        return Decision(name, TargetPlan.ON_DEVICE, why, capability, TENSORRT)
    return Decision(name, TargetPlan.HERE, "TensorRT-RTX builds for it without a GPU", capability, TENSORRT_RTX)


def precision_problem(capability: str, precision: Precision) -> str | None:
    """Why GPUs of a compute capability cannot compute in a precision; None if they can."""
    first = _FIRST_CAPABILITIES.get(precision)
    if first is None or _number(capability) >= _number(first):
        return None
    return f"compute capability {capability} has no {precision.upper()}, which starts with {first}"


def check_precision(decisions: Sequence[Decision], precision: Precision, *, named: bool = True) -> None:
    """Raises BadInput if the GPU of one of these targets cannot compute in a precision.

    Targets that nobody `named` need only one that can: an engine in that precision is for those that can.
    """
    found = {each.target: precision_problem(each.capability, precision) for each in decisions if each.capability}
    problems = [f"target {target}: {problem}" for target, problem in found.items() if problem]
    if problems and (named or len(problems) == len(found)):
        raise BadInput(problems[0], "leave that target out, or choose FP16 for it")


def in_precision(plan: EnginePlan, precision: Precision) -> EnginePlan | None:
    """The plan for those of its GPUs that compute in a precision; None if there are none."""
    flavour = FLAVOURS[plan.flavour]
    capabilities = plan.capabilities or flavour.default_capabilities
    able = tuple(each for each in capabilities if precision_problem(each, precision) is None)
    if able == capabilities:
        return plan
    return replace(plan, capabilities=able) if able else None


def check_stripping(decisions: Sequence[Decision]) -> None:
    """Raises BadInput unless the full TensorRT builds every engine here: it alone leaves weights out."""
    here = [decision for decision in decisions if decision.verdict is TargetPlan.HERE]
    if not here or any(decision.flavour != TENSORRT for decision in here):
        problem = "--strip-weights needs an engine of the full TensorRT: TensorRT-RTX strips none without a GPU"
        raise BadInput(problem, "leave it out, or export with TensorRT on the GPU that runs the engine")


def _number(capability: str) -> tuple[int, ...]:
    return tuple(map(int, capability.split(".")))


def _this_machine(here: str | None) -> Decision:
    gpus = machine.gpus()
    if not gpus:
        return Decision(THIS, TargetPlan.NOT_SERVED, "no CUDA GPU was found on this machine")
    if here and FLAVOURS[here].supports(gpus[0].capability):
        why = f"{FLAVOURS[here].title} builds for {gpus[0].name}"
        return Decision(THIS, TargetPlan.HERE, why, gpus[0].capability, here)
    why = f"TensorRT is not installed, and TensorRT-RTX is not installed or does not support {gpus[0].name}"
    return Decision(THIS, TargetPlan.NOT_SERVED, why, gpus[0].capability)


def engines(decisions: Sequence[Decision]) -> tuple[EnginePlan, ...]:
    """The engine files for all targets that are built here, as few as possible, the main one first."""
    here = [decision for decision in decisions if decision.verdict is TargetPlan.HERE]
    rtx = {decision.capability for decision in here if decision.flavour == TENSORRT_RTX}
    default = FLAVOURS[TENSORRT_RTX].default_capabilities
    modern = tuple(capability for capability in default if capability in rtx)
    planned: list[tuple[str, tuple[str, ...]]] = []
    planned += [(TENSORRT, ())] if any(decision.flavour == TENSORRT for decision in here) else []
    planned += [(TENSORRT_RTX, () if modern == default else modern)] if modern else []
    planned += [(TENSORRT_RTX, (TURING,))] if TURING in rtx else []
    names = ("model.plan", "engine_2.plan", "engine_3.plan")
    return tuple(EnginePlan(name, *engine) for name, engine in zip(names, planned, strict=False))
