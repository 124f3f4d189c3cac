"""Lists the candidates for running a bundle on this machine, fastest first, with the reason if unavailable."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploytool import runtimes
from deploytool.bundle.manifest import Engine, File, Graph, Manifest, Role, all_files
from deploytool.device.arguments import MinimumBackend
from deploytool.device.environment import Environment, mismatch
from deploytool.spec import Precision, StrEnum


class Tier(StrEnum):
    """A class of backends that run a bundle, fastest first; which of the two on the CPU is faster is measured."""

    ENGINE = "engine"
    BUILT = "built here"
    ORT_TENSORRT = "ORT TensorRT"
    ORT_CUDA = "ORT CUDA"
    ORT_CPU = "ORT CPU"
    OPENVINO_CPU = "OpenVINO CPU"


TIERS = tuple(Tier)
ACCEPTED_TIERS: Mapping[str, tuple[Tier, ...]] = {  # by the value of `--require`
    MinimumBackend.TRT: TIERS[:3],
    MinimumBackend.CUDA: TIERS[:4],
    MinimumBackend.CPU: TIERS,
}

CPU_TIERS = (Tier.ORT_CPU, Tier.OPENVINO_CPU)
_RUNTIMES = {Tier.ORT_CPU: runtimes.ORT, Tier.OPENVINO_CPU: runtimes.OPENVINO}

_DEVICES = {Tier.ORT_TENSORRT: "tensorrt", Tier.ORT_CUDA: "cuda", Tier.ORT_CPU: "cpu", Tier.OPENVINO_CPU: "cpu"}


_USUAL = (Precision.FP32, Precision.FP16)  # precisions that a tier has without being named


def tier_name(tier: Tier, precision: Precision | None) -> str:
    """What people call a tier that computes in a precision."""
    return str(tier) if precision is None or precision in _USUAL else f"{tier} {precision.upper()}"


@dataclass(frozen=True)
class SideFile:
    """A file with weights of a graph: its path, its size in bytes and its SHA-256, as the manifest states them."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Candidate:
    """One file with the backend and device that run it; `absent` is the reason if it cannot be tried.

    `sha256` and `size` (bytes) are those of the file and are checked again when it is opened; `memory_mib` is the
    memory that a run on a CPU may need according to the manifest, None where the manifest states none. `weights` are
    the side files that a graph may use, or the graph with the weights of an engine that has none. `answers` is the file
    of the bundle with the golden answers in INT8 or FP8, empty in other precisions.
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
    weights: tuple[SideFile, ...] = ()
    answers: str = ""

    @property
    def name(self) -> str:
        """What people call it: the tier, and the precision if it is not the usual one of its tier."""
        return tier_name(self.tier, self.precision)

    @property
    def is_int8(self) -> bool:
        """Whether it computes in INT8, where a tier has another candidate that does not."""
        return self.precision is Precision.INT8


def candidates(folder: Path, manifest: Manifest, environment: Environment, *built: Candidate) -> tuple[Candidate, ...]:
    """At least one candidate of every tier, in the order of the tiers; `built` are the engines built on this machine.

    Within a tier those in INT8 come first: the bundle has them where they are faster.
    """
    for_engines = engine_answers(manifest)
    engines = [
        Candidate(
            *(Tier.ENGINE, str(folder / engine.file.path), engine.file.size, engine.file.sha256),
            *("tensorrt", "cuda", engine.flavour),
            precision=engine.precision,
            io=engine.io,
            absent=mismatch(engine, environment) or omission_reason(folder, engine),
            answers=for_engines.get(engine.precision, ""),
            weights=_engine_weights(folder, manifest, engine),
        )
        for engine in manifest.engines
    ]
    engines.sort(key=lambda candidate: candidate.absent is not None)  # stable: engines for this machine come first
    no_engine = [] if engines else [unavailable(Tier.ENGINE, "the bundle contains no engine")]
    graphs = (
        _graph_candidate(folder, manifest, environment, tier, graph)
        for tier in TIERS[2:]
        for graph in _graphs_for(manifest, tier)
    )
    return (*engines, *no_engine, *built, *graphs)


def engine_answers(manifest: Manifest) -> Mapping[Precision, str]:
    """The file with the golden answers of engines in 8 bits, by precision."""
    return {each.precision: each.answers for each in manifest.int8 if each.form.for_engines}


def _engine_weights(folder: Path, manifest: Manifest, engine: Engine) -> tuple[SideFile, ...]:
    """The graph that a stripped engine takes its weights from; none for an engine that has its own."""
    graphs = (graph.path for graph in manifest.graphs if engine.stripped and graph.precision is engine.precision)
    files = (_file(manifest, path) for path in graphs)
    return tuple(SideFile(str(folder / file.path), file.size, file.sha256) for file in files)[:1]


def omission_reason(folder: Path, engine: Engine) -> str | None:
    """Why an engine of the manifest is not in the folder; None if it is there."""
    return None if (folder / engine.file.path).exists() else "it was left out when the bundle was fetched"


def unavailable(tier: Tier, reason: str) -> Candidate:
    """A candidate without a file, which stands for its tier."""
    return Candidate(tier, "", 0, "", "tensorrt", "cuda", "", Precision.FP16, Precision.FP32, reason)


def _graph_candidate(folder: Path, manifest: Manifest, environment: Environment, tier: Tier, graph: Graph) -> Candidate:
    """A graph in ONNX Runtime or OpenVINO."""
    int8 = next((each for each in manifest.int8 if each.path == graph.path), None)
    file = _file(manifest, graph.path)
    weights = side_files(folder, manifest, file)
    on_openvino = tier is Tier.OPENVINO_CPU
    absent = _openvino_absence(environment, weights) if on_openvino else _ort_absence(environment, graph, tier)
    return Candidate(
        *(tier, str(folder / file.path), file.size, file.sha256),
        *("openvino" if on_openvino else "onnxruntime", _DEVICES[tier], ""),
        precision=graph.precision,
        io=graph.io,
        absent=absent or (int8.refusal(environment.processor, environment.features) if int8 else None),
        memory_mib=graph.memory_mib,
        weights=weights,
        answers=int8.answers if int8 else "",
    )


def _ort_absence(environment: Environment, graph: Graph, tier: Tier) -> str | None:
    """Why ONNX Runtime cannot be tried on a tier; None if it can."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "ONNX Runtime is not installed"
    if tier is not Tier.ORT_CPU and not environment.capability:
        return "no CUDA GPU answers here"
    return runtimes.refusal(runtimes.ORT, environment.onnxruntime, graph.ir_version, graph.opset)


def _openvino_absence(environment: Environment, weights: Sequence[SideFile]) -> str | None:
    """Why OpenVINO cannot be tried; None if it can."""
    if not environment.openvino:
        return "OpenVINO is not installed"
    return "OpenVINO cannot take verified weights beside the graph" if weights else None


def side_files(folder: Path, manifest: Manifest, graph: File) -> tuple[SideFile, ...]:
    """The side files that the manifest lists for a graph: in its folder or below."""
    below = f"{graph.path.rpartition('/')[0]}/"
    return tuple(
        SideFile(str(folder / file.path), file.size, file.sha256)
        for file in manifest.files
        if file.role is Role.WEIGHTS and file.path.startswith(below)
    )


def _graphs_for(manifest: Manifest, tier: Tier) -> Iterator[Graph]:
    """The graphs for the runtime and device of a tier, the fastest first; the first graph if none has the precision.

    FP16 on a GPU; on a CPU, which would compute FP16 in FP32 anyway, INT8 where the bundle says so, and FP32.
    """
    runtime = _RUNTIMES.get(tier, "")
    precision = Precision.FP32 if runtime else Precision.FP16
    by_path = {graph.path: graph for graph in manifest.graphs}
    choice = manifest.int8_for.get(runtime)
    if choice and choice.path:
        yield by_path[choice.path]
    if runtime in manifest.best:
        yield by_path[manifest.best[runtime]]
    else:
        yield next((graph for graph in manifest.graphs if graph.precision is precision), manifest.graphs[0])


def _file(manifest: Manifest, path: str) -> File:
    return next(file for file in all_files(manifest) if file.path == path)
