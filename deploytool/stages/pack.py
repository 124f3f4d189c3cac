"""Packs what a device needs: graphs, engines, golden cases and a recipe, in a folder that names its every byte."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from deploytool import serde
from deploytool.bundle import triton_config
from deploytool.bundle.manifest import (
    MAX_MEMORY_MIB,
    SCHEMA,
    Engine,
    EngineRecipe,
    File,
    GoldenFiles,
    Graph,
    Manifest,
    Provenance,
    Role,
    all_files,
    check_files,
    content_digest,
    describe_file,
    read_manifest,
    write_manifest,
)
from deploytool.data import golden, images
from deploytool.data.golden import Golden
from deploytool.errors import ParityFailed, StageFailed
from deploytool.host import disk, machine
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import metrics
from deploytool.parity.replay import at_once
from deploytool.results import report, verdict
from deploytool.results.artifact import Artifact, Kind, Notes
from deploytool.results.report import Report
from deploytool.rewrites.graph import memory
from deploytool.spec import BATCH, Decision, Job, Model, Precision, Range, Stage, TargetPlan, Tensor
from deploytool.targets import FLAVOURS, TENSORRT

_CASES = 8  # golden cases that travel: enough to tell a wrong engine, few enough for a slow line


@dataclass(frozen=True)
class _Content:
    """What is packed, and how it is called there."""

    name: str
    model: Model
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    free: Mapping[str, Range]
    io: Precision


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the bundle into the folder of `out`, its manifest last.

    Raises ParityFailed if the report says that an artifact computes something else than its source.
    """
    validated = inputs.latest(Kind.REPORT)
    broken = serde.decode(tuple[str, ...], validated.notes["broken"])
    if broken:
        raise ParityFailed(f"what fails is not packed: {broken[0]}", "`deploytool blame` names the layer")
    folder, written = out.parent, report.read(validated.path)
    folder.mkdir()
    single, half = _graphs(inputs)
    content = _content(inputs, validated.notes, onnx.load(single.path, load_external_data=False))
    graphs = _server(folder, content, single, half)
    recorded = inputs.golden()
    allowed = metrics.tolerances(recorded.noise, verdict.requested_tolerances(written))
    batch = content.model.inputs[0].shape[0]
    sample = _golden(folder, recorded, batch if isinstance(batch, int) else 1)
    graphs = tuple(_bounded(folder, graph, content.free, sample.cases) for graph in graphs)
    recipe = _recipe(folder, content, graphs[-1])
    engines = _engines(folder, content, inputs, written)
    own = {engine.file.path for engine in engines}
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    manifest = Manifest(
        schema=SCHEMA,
        name=content.name,
        sequence=job.options.sequence,
        inputs=content.inputs,
        outputs=content.outputs,
        free=content.free,
        preprocessing=content.model.preprocessing,
        classes=serde.decode(tuple[str, ...], inputs.latest(Kind.GOLDEN).notes.get("classes", [])),
        graphs=graphs,
        golden=sample,
        tolerances={Precision.FP32: allowed.fp32, Precision.FP16: allowed.fp16},
        recipe=recipe,
        files=tuple(describe_file(folder, path, _role(path)) for path in paths if path not in own),
        engines=engines,
        targets=written.targets,
        provenance=_provenance(inputs, written, content.model),
    )
    write_manifest(folder, manifest)
    check_files(folder, read_manifest(folder))
    size = sum(file.size for file in all_files(manifest))
    return {"digest": content_digest(manifest), "sequence": manifest.sequence, "bytes": size}


def _graphs(inputs: StageInputs) -> tuple[Artifact, Artifact]:
    """The last FP32 graph and the FP16 graph."""
    chain = inputs.chain(Kind.GRAPH)
    single = [graph for graph in chain if graph.made_by is not Stage.FP16]
    if len(single) == len(chain):
        raise StageFailed("there is no FP16 graph to pack", f"export again, with the {Stage.FP16} stage")
    return single[-1], chain[-1]


def _content(inputs: StageInputs, notes: Notes, graph: onnx.ModelProto) -> _Content:
    model = inputs.source().definition
    serves = serde.decode(dict[str, serde.Json], notes["serves"])
    below = {tensor.name: tensor.below for tensor in model.inputs}
    feeds = tuple(replace(_tensor(value), below=below.get(value.name, 2)) for value in graph.graph.input)
    outputs = tuple(_tensor(value) for value in graph.graph.output)
    name = re.sub(r"[^A-Za-z0-9_.+-]", "_", model.name).lstrip(".+-") or "model"
    free = serde.decode(Mapping[str, Range], serves["free"])  # type: ignore[type-abstract]  # decode makes a dict
    return _Content(name, model, feeds, outputs, free, serde.decode(Precision, serves["io"]))


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    """An input or output as the graph has it; a size nobody named is `?`."""
    typed = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(typed.elem_type).name
    sides = (side.dim_value if side.HasField("dim_value") else side.dim_param or "?" for side in typed.shape.dim)
    return Tensor(value.name, tuple(sides), dtype)


def _server(folder: Path, content: _Content, single: Artifact, half: Artifact) -> tuple[Graph, ...]:
    """Both graphs, each as a model of a Triton repository."""
    graphs = []
    for artifact, name, precision in (
        (single, content.name, Precision.FP32),
        (half, f"{content.name}_{Precision.FP16}", Precision.FP16),
    ):
        io = content.io if precision is Precision.FP16 else Precision.FP32
        place = folder / "models" / name / "1"
        place.mkdir(parents=True)
        disk.write(place / "model.onnx", artifact.path.read_bytes())
        text = triton_config.graph_config(name, content.inputs, content.outputs, io, content.free[BATCH].largest)
        place.with_name("config.pbtxt").write_text(text, encoding="utf-8")
        graphs.append(Graph(f"models/{name}/1/model.onnx", precision, io))
    return tuple(graphs)


def _bounded(folder: Path, graph: Graph, free: Mapping[str, Range], cases: int) -> Graph:
    """The graph with what a run of the golden cases may take, at the largest sizes that it serves."""
    sizes = {name: each.largest for name, each in free.items()} | {BATCH: at_once(cases, free[BATCH])}
    model = onnx.load(folder / graph.path, load_external_data=False)
    needed = memory.required_mib(model, sizes, cases)
    return replace(graph, memory_mib=needed if needed and needed <= MAX_MEMORY_MIB else None)


def _golden(folder: Path, sample: Golden, batch: int) -> GoldenFiles:
    place = folder / "golden"
    place.mkdir()
    few = golden.first_cases(sample, max(batch, _CASES // batch * batch))  # whole batches, where only one size is taken
    golden.write(place / "golden.npz", few)
    names = [f"golden/case_{number}.png" for number in range(len(few.labels)) if few.pixels.size]
    for name, pixels in zip(names, few.pixels, strict=False):
        images.write(folder / name, pixels)
    return GoldenFiles("golden/golden.npz", len(few.labels), tuple(names))


def _recipe(folder: Path, content: _Content, graph: Graph) -> str:
    ends = ("min", "smallest"), ("opt", "typical"), ("max", "largest")
    shapes = [f"--{word}Shapes={_sizes(content.inputs, content.free, end)}" for word, end in ends]
    trtexec = " ".join(["trtexec", f"--onnx={graph.path}", *shapes, "--stronglyTyped", "--saveEngine=model.plan"])
    recipe = EngineRecipe(graph.path, graph.precision, graph.io, content.inputs, content.free, trtexec)
    (folder / "recipe.json").write_text(serde.text(recipe), encoding="utf-8")
    return "recipe.json"


def _sizes(inputs: Sequence[Tensor], free: Mapping[str, Range], end: str) -> str:
    sides = [
        "x".join(str(getattr(free[side], end) if isinstance(side, str) else side) for side in tensor.shape)
        for tensor in inputs
    ]
    return ",".join(f"{tensor.name}:{shape}" for tensor, shape in zip(inputs, sides, strict=True))


def _engines(folder: Path, content: _Content, inputs: StageInputs, written: Report) -> tuple[Engine, ...]:
    """Every engine; those of the full TensorRT where Triton finds them."""
    found: list[Engine] = []
    plans: dict[str, str] = {}
    for artifact in inputs.chain(Kind.ENGINE):
        for built in serde.decode(tuple[report.Engine, ...], artifact.notes["engines"]):
            capabilities = _capabilities(built, written.targets)
            file = f"{built.flavour}_{built.version}_{'_'.join(capabilities)}.plan"
            place = f"models/{content.name}_trt/1" if built.flavour == TENSORRT else "engines"
            (folder / place).mkdir(parents=True, exist_ok=True)
            disk.write(folder / place / file, artifact.path.with_name(built.file).read_bytes())
            entry = describe_file(folder, f"{place}/{file}", Role.ENGINE)
            found.append(_engine(entry, built, capabilities, content.io))
            plans |= dict.fromkeys(capabilities, file) if built.flavour == TENSORRT else {}
    if plans:
        name, largest = f"{content.name}_trt", content.free[BATCH].largest
        text = triton_config.engine_config(name, content.inputs, content.outputs, content.io, largest, plans)
        (folder / "models" / name / "config.pbtxt").write_text(text, encoding="utf-8")
    return tuple(found)


def _engine(file: File, built: report.Engine, capabilities: tuple[str, ...], io: Precision) -> Engine:
    """The engine with the machines it is for: TensorRT's own word is its platform, TensorRT-RTX's any system."""
    systems: tuple[str, ...] = (platform.system().lower(),)
    processors: tuple[str, ...] = (platform.machine(),)
    if built.flavour != TENSORRT:
        systems = ("linux", "windows")
        processors = ("x86_64", "aarch64") if "12.1" in capabilities else ("x86_64",)  # 12.1 is an Arm machine
    floor = next((f"{major}.0" for major in (13, 12) if machine.version(f"{built.flavour}-cu{major}")), "")
    return Engine(file, built.flavour, built.version, capabilities, systems, processors, floor, Precision.FP16, io)


def _capabilities(built: report.Engine, targets: Sequence[Decision]) -> tuple[str, ...]:
    if built.capabilities:
        return built.capabilities
    if built.flavour != TENSORRT:
        return FLAVOURS[built.flavour].default_capabilities
    here = (each for each in targets if each.verdict is TargetPlan.HERE and each.flavour == TENSORRT)
    return tuple(sorted({each.capability for each in here}))


def _provenance(inputs: StageInputs, written: Report, model: Model) -> Provenance:
    """What it was made from; no path of this machine, and nothing that another run of the same would change."""
    where, _, function = model.factory.rpartition(":")
    kinds = (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH)
    exported = [each.notes for each in inputs.chain(Kind.GRAPH) if each.made_by is Stage.EXPORT]
    return Provenance(
        factory=f"{Path(where).name}:{function}",
        arguments=model.options,
        weights=inputs.latest(Kind.WEIGHTS).digest,
        artifacts={each.made_by: each.digest for each in inputs.artifacts if each.kind in kinds},
        versions=written.versions,
        choices={name: str(notes[name]) for notes in exported for name in ("exporter", "opset")},
    )


def _role(path: str) -> Role:
    if path.startswith("golden/"):
        return Role.GOLDEN if path.endswith(".npz") else Role.IMAGE
    if path.endswith(".onnx"):
        return Role.GRAPH
    return Role.SERVER if path.endswith(".pbtxt") else Role.RECIPE
