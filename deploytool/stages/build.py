"""Builds strongly typed engines of FP16, BF16, INT8 and FP8 graphs with TensorRT 10, TensorRT 11 or TensorRT-RTX."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploytool import serde, targets
from deploytool.backends import tensorrt, tensorrt_builder, tensorrt_config, tensorrt_estimate
from deploytool.backends.tensorrt_builder import BuiltEngine
from deploytool.builder_settings import BuilderSettings
from deploytool.errors import StageFailed
from deploytool.host import disk, side_files
from deploytool.known_issues.catalog import Match
from deploytool.loading.stage_inputs import StageInputs
from deploytool.precision.int8 import executed, macs, refusals
from deploytool.results.artifact import Artifact, Kind, Notes, engine_graph
from deploytool.results.int8 import Int8
from deploytool.results.report import Engine
from deploytool.rewrites.graph import storage
from deploytool.spec import BATCH, EnginePlan, Job, Precision
from deploytool.targets import FLAVOURS, TENSORRT_RTX, TURING

_PRODUCTS = ("Gemm", "MatMul")
_QUANTISED = (Kind.INT8_GRAPH, Kind.FP8_GRAPH)


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes every engine of `job.options.engines`, the first to `out` and the others beside it.

    Those from the BF16, INT8 and FP8 graphs follow, if there are any, under the same names after `bf16_`, `int8_` and
    `fp8_`; those in FP8 are for the GPUs that have it.

    An engine that a known issue can affect has the probes as additional outputs; the note `probes` lists them by file.
    Raises MissingBackend if a flavour cannot be imported, StageFailed if TensorRT rejects the graph or builds FP32, or
    if it has Q/DQ nodes in a form that TensorRT does not take.
    """
    engines, remarks, probes = [], [], {}
    log: list[str] = []
    caches = _timing_caches(job)
    for artifact, plan in _plans(job, inputs):
        path = engine_graph(artifact.path)
        _check_forms(path)
        if artifact.kind is Kind.INT8_GRAPH and (impossible := _not_for_turing(plan, path)):
            remarks.append(impossible)
            continue
        made = _build(job, artifact, plan, inputs, caches[plan.flavour])
        disk.write(out.with_name(plan.file), made.built.engine)
        caches[plan.flavour] = made.built.timing_cache
        engines.append(made.engine)
        log += made.built.log
        remarks += made.remarks
        if artifact.kind in _QUANTISED:
            remarks += _kernel_remarks(plan, path, made.listed, engines)
        probes[plan.file] = made.probes
    for flavour, cache in caches.items():
        if cache:
            disk.write(_cache_file(out.parent, flavour), cache)
    return {"engines": serde.encode(engines), "log": log, "probes": probes, "remarks": remarks}


@dataclass(frozen=True)
class _Made:
    """What was built, with its entry in the report, the tensors that probes read, remarks, and the verbose log."""

    built: BuiltEngine
    engine: Engine
    probes: list[str]
    remarks: list[str]
    listed: str


def _build(job: Job, artifact: Artifact, plan: EnginePlan, inputs: StageInputs, cache: bytes) -> _Made:
    """One engine of a graph; `cache` is the timing cache to build with."""
    path, start = engine_graph(artifact.path), time.perf_counter()
    graph = path if side_files.side_file(path).exists() else path.read_bytes()
    is_quantised = artifact.kind in _QUANTISED  # heavy layers of INT8 return FP32, and in FP8 hazards may be kept so
    trt, listed = tensorrt.library(plan.flavour), list[str]()
    matches, remarks = _affecting(_matches(inputs), plan, trt.__version__, probed=not is_quantised)
    probes = list(dict.fromkeys(match.place.tensor for match in matches if match.is_probed))
    settings, not_stripped = _settings(job, artifact, graph)
    built = tensorrt_builder.build(
        trt,
        graph,
        plan,
        job.model.inputs,
        {**job.options.sizes, BATCH: job.options.batch},
        job.watch,
        fp32_layers=None if is_quantised else serde.decode(int, artifact.notes.get("heavy_nodes_kept", 0)),
        probes=probes,
        listen=listed.append,
        settings=settings,
        timing_cache=cache,
    )
    seconds, verbose = round(time.perf_counter() - start, 3), "\n".join(listed)
    engine = Engine(
        *(plan.file, len(built.engine), plan.flavour, trt.__version__, plan.capabilities, built.layers, seconds),
        precision=artifact.made_by.precision,
        kernels=tensorrt_estimate.count_kernels(verbose) if plan.flavour == TENSORRT_RTX else None,
        stripped=settings.stripped,
    )
    remarks = [
        *remarks,
        *([f"{plan.file} has its weights: {not_stripped}"] if not_stripped else []),
        *([f"{plan.file} was built with the timing cache of an earlier build"] if built.reused else []),
    ]
    return _Made(built, engine, probes, remarks, verbose)


def _not_for_turing(plan: EnginePlan, graph: Path) -> str:
    """Why an INT8 engine is not built for compute capability 7.5; empty if it is."""
    model = storage.load_structure(graph)
    named = macs.in_graph(model)
    products = [node.name for node in model.graph.node if node.name in named and node.op_type in _PRODUCTS]
    if TURING not in plan.capabilities or plan.flavour != TENSORRT_RTX or not products:
        return ""
    why = f"TensorRT-RTX has no kernel for {products[0]} there, whose result is FP32"
    return f"{plan.file} is not built for compute capability {TURING}: {why}; deploy FP16 on these GPUs"


def _settings(job: Job, artifact: Artifact, graph: Path | bytes) -> tuple[BuilderSettings, str]:
    """The settings for an engine of a graph, and why it is not stripped although the run asks for that.

    A bundle has the FP16 graph alone to fill the weights in from, as one file.
    """
    settings = job.options.builder
    if not settings.stripped:
        return settings, ""
    if artifact.made_by.precision is not Precision.FP16:
        return replace(settings, stripped=False), "a bundle has the FP16 graph alone"
    if isinstance(graph, Path):
        return replace(settings, stripped=False), "those of its graph are in a side file"
    if engine_graph(artifact.path) != artifact.path:
        return replace(settings, stripped=False), "it is built from another form of the graph"
    return settings, ""


def _timing_caches(job: Job) -> dict[str, bytes]:
    """What earlier builds of this stage measured, by flavour: the kernels that are known are not timed again."""
    found: dict[str, bytes] = {}
    for flavour in FLAVOURS:
        caches = (tensorrt_config.read_timing_cache(_cache_file(Path(folder), flavour)) for folder in job.earlier)
        found[flavour] = next((cache for cache in caches if cache), b"")
    return found


def _cache_file(folder: Path, flavour: str) -> Path:
    return folder / f"{flavour}{tensorrt_config.CACHE_SUFFIX}"


def _kernel_remarks(plan: EnginePlan, graph: Path, listed: str, engines: Sequence[Engine]) -> list[str]:
    """What the build log says of an engine in INT8 or FP8, beside the FP16 engine of the same plan."""
    if plan.flavour != TENSORRT_RTX:
        return []
    precision = engines[-1].precision
    title, wanted = precision.upper(), macs.in_graph(storage.load_structure(graph))
    run = len(wanted & executed.in_tensorrt(listed, precision))
    text = f"{plan.file}: the build log lists {run} of {len(wanted)} {title} nodes as {title} kernels"
    own, half = engines[-1].kernels, next((each.kernels for each in engines if plan.file.endswith(each.file)), None)
    if own is None or half is None:
        return [text]
    advice = "deploy FP16 until it is measured on a GPU" if own > half else "measure both on a GPU"
    return [f"{text}, and {own} kernels, {half} for FP16: {advice}"]


def _plans(job: Job, inputs: StageInputs) -> Iterator[tuple[Artifact, EnginePlan]]:
    """Every engine with the graph that it is built from; that of a graph with Q/DQ nodes as given is its first."""
    for plan in job.options.engines:
        yield inputs.latest(Kind.GRAPH), plan
    made = [each for each in inputs.chain(Kind.INT8_GRAPH) if not serde.decode(Int8, each.notes["int8"]).as_given]
    for graph in (*inputs.chain(Kind.BF16_GRAPH), *made, *inputs.chain(Kind.FP8_GRAPH)):
        for plan in job.options.engines:
            if able := targets.in_precision(plan, graph.made_by.precision):
                yield graph, replace(able, file=f"{graph.made_by.precision}_{plan.file}")


def _check_forms(graph: Path) -> None:
    """Raises StageFailed for Q/DQ nodes in a form that TensorRT refuses; one of them crashes its parser."""
    found = [each for each in refusals.refusals(storage.load_structure(graph)) if each.form not in refusals.PARSED]
    if found:
        more = f", and {len(found) - 1} more nodes are of such forms" if len(found) > 1 else ""
        problem = f"TensorRT does not take this INT8 graph: {found[0].sentence}{more}"
        raise StageFailed(problem, "quantise symmetrically, without a bias in INT32, or leave --trt out")


def _matches(inputs: StageInputs) -> tuple[Match, ...]:
    """The matches of the known_issues stage; none if it did not run."""
    notes = [artifact.notes["hits"] for artifact in inputs.chain(Kind.PROBES)]
    return tuple(match for encoded in notes for match in serde.decode(tuple[Match, ...], encoded))


def _affecting(
    matches: tuple[Match, ...], plan: EnginePlan, version: str, *, probed: bool
) -> tuple[tuple[Match, ...], list[str]]:
    """The matches whose issue affects this engine, and a remark on its probes if there is any match.

    An engine in 8 bits is not `probed`: no tolerance applies to its tensors, and more outputs would make it slower.
    """
    affecting = tuple(
        match
        for match in matches
        if match.endangers(plan.flavour, version, tensorrt.compute_capabilities(plan.flavour, plan.capabilities))
    )
    issues = ", ".join(dict.fromkeys(match.issue for match in affecting or matches))
    if affecting and not probed:
        return (), [
            f"{issues} can affect {plan.file}, which has no probes: the decisions of a graph in 8 bits are judged"
        ]
    if affecting:
        count = len({match.place.tensor for match in affecting if match.is_probed})
        probes = f"{count} probe{'s' * (count > 1)}"
        return affecting, [f"{issues} can affect {plan.file}, which has {probes} as additional outputs"]
    if matches:
        engine = f"{plan.flavour} {version} on its GPUs"
        reported = "are not reported" if "," in issues else "is not reported"
        return affecting, [f"{plan.file} has no probes: {issues} {reported} for {engine}"]
    return affecting, []
