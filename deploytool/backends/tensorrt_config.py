"""Configures a build of TensorRT 10, 11 or TensorRT-RTX: shapes, GPUs, limits, optimization level, timing cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploytool.builder_settings import BuilderSettings
from deploytool.errors import DeployError, StageFailed
from deploytool.host import files
from deploytool.spec import EnginePlan, Range, Tensor
from deploytool.targets import FLAVOURS

CACHE_SUFFIX = ".timing"  # of the timing cache beside the engines
_MIB = 1 << 20
_MAX_CACHE_BYTES = 256 * _MIB


def add_profiles(
    builder: Any,
    network: Any,
    config: Any,
    inputs: Sequence[Tensor],
    ranges: Mapping[str, Range],
    settings: BuilderSettings,
) -> None:
    """Adds the profiles of the settings, or one of all ranges; raises StageFailed if TensorRT does not take one."""
    for sizes in settings.profiles or ({},):
        profile = _optimization_profile(builder, network, inputs, {**ranges, **sizes})
        if config.add_optimization_profile(profile) < 0:
            stated = ", ".join(f"{name}={size.smallest}:{size.typical}:{size.largest}" for name, size in sizes.items())
            raise StageFailed(
                f"TensorRT does not take the profile {stated or 'of the run'}", "change --size or --batch"
            )


def _optimization_profile(builder: Any, network: Any, inputs: Sequence[Tensor], ranges: Mapping[str, Range]) -> Any:
    """The shapes of the inputs: the model names the dynamic dimensions, the graph has the sizes of the others.

    A checkpoint can change a size that the model declares, so the graph decides.
    """
    profile = builder.create_optimization_profile()
    for index, tensor in enumerate(inputs):
        dimensions = zip(tensor.shape, network.get_input(index).shape, strict=True)
        sizes = [ranges[name] if isinstance(name, str) else Range(size, size, size) for name, size in dimensions]
        shapes = ([getattr(size, bound) for size in sizes] for bound in ("smallest", "typical", "largest"))
        profile.set_shape(tensor.name, *shapes)
    return profile


def set_compute_capabilities(trt: Any, config: Any, plan: EnginePlan) -> None:
    """Names the GPUs to build for, which TensorRT-RTX alone supports; TensorRT builds for the GPU it runs on."""
    if not plan.capabilities:
        return
    config.num_compute_capabilities = len(plan.capabilities)
    for index, capability in enumerate(plan.capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + capability.replace(".", "")), index)


def apply(trt: Any, config: Any, settings: BuilderSettings) -> None:
    """Sets the limits on memory, the optimization level and whether weights stay out, where they are stated."""
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib * _MIB)
    if settings.memory_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, settings.memory_mib * _MIB)
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if settings.stripped:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)  # as fast as with weights: they will be the same


def has_timing_cache(flavour: str) -> bool:
    """Whether the flavour times kernels while it builds: TensorRT-RTX, which builds without a GPU, does not."""
    return FLAVOURS[flavour].needs_gpu


def read_timing_cache(path: Path) -> bytes:
    """The timing cache that an earlier build left; empty if there is none, or none that can be read."""
    try:
        return files.read(path, _MAX_CACHE_BYTES)
    except DeployError:
        return b""


def use_timing_cache(config: Any, content: bytes) -> bool:
    """Builds with the timing cache of an earlier build, or with an empty one; returns whether the earlier one is used.

    TensorRT refuses a cache of another release or another GPU, and one that is damaged.
    """
    if content:
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return True
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return False
