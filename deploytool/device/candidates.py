"""The ways to run a bundle on this machine, the fastest first, each with the reason if it cannot even be tried."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploytool.bundle.manifest import Engine, File, Graph, Manifest, all_files
from deploytool.device.arguments import MinimumBackend
from deploytool.device.environment import Environment, mismatch
from deploytool.spec import Precision, Word


class Tier(Word):
    """What runs a bundle, the fastest first."""

    ENGINE = "engine"
    BUILT = "built here"
    ORT_TENSORRT = "ORT TensorRT"
    ORT_CUDA = "ORT CUDA"
    ORT_CPU = "ORT CPU"


TIERS = tuple(Tier)
ACCEPTED_TIERS: Mapping[str, tuple[Tier, ...]] = {  # by the value of `--require`
    MinimumBackend.TRT: TIERS[:3],
    MinimumBackend.CUDA: TIERS[:4],
    MinimumBackend.CPU: TIERS,
}

_DEVICES = {Tier.ORT_TENSORRT: "tensorrt", Tier.ORT_CUDA: "cuda", Tier.ORT_CPU: "cpu"}


@dataclass(frozen=True)
class Candidate:
    """One way: which file on which backend and device; `absent` says why it is not to be tried.

    `sha256` and `size` are those of the file, which whoever opens it checks once more; `memory_mib` is what the
    manifest says that a run on a CPU may take, None where it does not say.
    """

    tier: Tier
    path: str
    size: int
    sha256: str
    backend: str
    device: str
    flavour: str
    precision: Precision
    io: Precision
    absent: str | None = None
    memory_mib: int | None = None


def candidates(folder: Path, manifest: Manifest, found: Environment, built: Candidate) -> tuple[Candidate, ...]:
    """Every tier at least once, in their order; `built` is the engine that was made on this machine."""
    engines = [
        Candidate(
            *(Tier.ENGINE, str(folder / engine.file.path), engine.file.size, engine.file.sha256),
            *("tensorrt", "cuda", engine.flavour),
            precision=engine.precision,
            io=engine.io,
            absent=mismatch(engine, found) or left_out(folder, engine),
        )
        for engine in manifest.engines
    ]
    engines.sort(key=lambda way: way.absent is not None)  # stable: what fits comes first
    none = [] if engines else [missing(Tier.ENGINE, "the bundle holds no engine")]
    return (*engines, *none, built, *(_graph(folder, manifest, found, tier) for tier in TIERS[2:]))


def left_out(folder: Path, engine: Engine) -> str | None:
    """Why an engine of the manifest is not in the folder; None if it is."""
    return None if (folder / engine.file.path).exists() else "it was left out when the bundle was fetched"


def missing(tier: Tier, why: str) -> Candidate:
    """A tier of which there is no file."""
    return Candidate(tier, "", 0, "", "tensorrt", "cuda", "", Precision.FP16, Precision.FP32, why)


def _graph(folder: Path, manifest: Manifest, found: Environment, tier: Tier) -> Candidate:
    """A graph in ONNX Runtime: FP16 on a GPU; FP32 on a CPU, which would compute FP16 in FP32 anyway."""
    graph = _chosen(manifest, Precision.FP32 if tier is Tier.ORT_CPU else Precision.FP16)
    file = _file(manifest, graph.path)
    absent = None
    if importlib.util.find_spec("onnxruntime") is None:
        absent = "ONNX Runtime is not installed"
    elif tier is not Tier.ORT_CPU and not found.capability:
        absent = "no CUDA GPU answers here"
    place = str(folder / file.path)
    device = _DEVICES[tier]
    known = (tier, place, file.size, file.sha256, "onnxruntime", device, "", graph.precision, graph.io)
    return Candidate(*known, absent, graph.memory_mib)


def _chosen(manifest: Manifest, precision: Precision) -> Graph:
    return next((graph for graph in manifest.graphs if graph.precision is precision), manifest.graphs[0])


def _file(manifest: Manifest, path: str) -> File:
    return next(file for file in all_files(manifest) if file.path == path)
