"""Writes the recipe by which a device builds an engine, with the equivalent command of trtexec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deploytool import serde
from deploytool.builder_settings import BuilderSettings
from deploytool.bundle.manifest import EngineRecipe, Graph
from deploytool.spec import Range, Tensor

_FILE = "recipe.json"


def write(
    folder: Path, graph: Graph, inputs: tuple[Tensor, ...], free: Mapping[str, Range], builder: BuilderSettings
) -> str:
    """Writes the recipe for engines of a graph, and returns its path in the bundle."""
    several = builder.profiles
    shapes = [
        text
        for index, profile in enumerate(several or ({},))
        for text in (
            *([f"--profile={index}"] if several else []),
            *_profile_shapes(inputs, {**free, **profile}),
        )
    ]
    flags = [*_flags(builder), "--stronglyTyped", "--saveEngine=model.plan"]
    trtexec = " ".join(["trtexec", f"--onnx={graph.path}", *shapes, *flags])
    recipe = EngineRecipe(graph.path, graph.precision, graph.io, inputs, free, trtexec, settings=builder)
    (folder / _FILE).write_text(serde.text(recipe), encoding="utf-8")
    return _FILE


def _profile_shapes(inputs: Sequence[Tensor], free: Mapping[str, Range]) -> list[str]:
    """The smallest, typical and largest shapes of all inputs, as options of trtexec."""
    fields = ("min", "smallest"), ("opt", "typical"), ("max", "largest")
    return [f"--{option}Shapes={_shapes(inputs, free, field)}" for option, field in fields]


def _flags(settings: BuilderSettings) -> list[str]:
    """The settings of a build that trtexec takes, which has no option for `memory_mib`; a pool is in MiB."""
    pools = [] if settings.workspace_mib is None else [f"--memPoolSize=workspace:{settings.workspace_mib}"]
    return [*pools, *([] if settings.level is None else [f"--builderOptimizationLevel={settings.level}"])]


def _shapes(inputs: Sequence[Tensor], free: Mapping[str, Range], field: str) -> str:
    """The shapes of all inputs as trtexec expects them; `field` of a Range is the value of a dynamic size."""
    shapes = [
        "x".join(str(getattr(free[size], field) if isinstance(size, str) else size) for size in tensor.shape)
        for tensor in inputs
    ]
    return ",".join(f"{tensor.name}:{shape}" for tensor, shape in zip(inputs, shapes, strict=True))
