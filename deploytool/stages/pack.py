"""Packs graphs, engines, golden cases and a build recipe into a bundle; its manifest has the digest of every file."""

from __future__ import annotations

import platform
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx

from deploytool import runtimes, serde
from deploytool.builder_settings import BuilderSettings
from deploytool.bundle import corner_files, int8_choice, int8_files, recipe, tool, triton_config
from deploytool.bundle.int8 import Choice, Int8Graph
from deploytool.bundle.int8_files import CornerAnswers, Int8Files
from deploytool.bundle.manifest import (
    MAX_MEMORY_MIB,
    Engine,
    File,
    GoldenFiles,
    Graph,
    InputImages,
    Manifest,
    Provenance,
    Role,
    all_files,
    check_files,
    content_digest,
    describe_file,
    read_manifest,
    schema_of,
    write_manifest,
)
from deploytool.data import golden, images
from deploytool.data.golden import Golden, Pixels
from deploytool.errors import ParityFailed, StageFailed
from deploytool.host import disk, machine, side_files
from deploytool.loading.hub import doors
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import metrics
from deploytool.parity.replay import at_once
from deploytool.results import report, verdict
from deploytool.results.artifact import Artifact, Kind, Notes, openvino_graph
from deploytool.results.corners import NOTE, RecordedCorner
from deploytool.results.report import Report
from deploytool.rewrites.graph import memory, storage
from deploytool.spec import BATCH, FLOATS, Decision, Job, Model, Precision, Range, Stage, TargetPlan, Tensor
from deploytool.targets import FLAVOURS, TENSORRT, precision_problem
from deploytool.tasks import fit

_OPENVINO_PATH = "openvino/model.onnx"
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_EIGHT_BITS = (Precision.INT8, Precision.FP8)
_CASES = 8  # golden cases in a bundle: enough to detect a wrong engine, few enough for a slow network


@dataclass(frozen=True)
class _Content:
    """The model of the bundle as the manifest and the server configurations describe it, and how engines are built."""

    name: str
    model: Model
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    free: Mapping[str, Range]
    io: Precision
    builder: BuilderSettings


@dataclass(frozen=True)
class _Graphs:
    """The graphs of a bundle with the memory that each needs, and what the manifest says of them.

    Engines are built from `half`. `floor` are the oldest runtimes that take all of them, and `best` is the path of the
    one that is fastest in a runtime; `quantised` proves those in 8 bits.
    """

    half: Graph
    every: tuple[Graph, ...]
    floor: Mapping[str, str]
    best: Mapping[str, str]
    quantised: Int8Files


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the bundle into the folder of `out`, which must not exist; the manifest is written last.

    Raises ParityFailed if the report contains a failed check, StageFailed if there is no FP16 graph.
    """
    validated, folder = inputs.latest(Kind.REPORT), out.parent
    if broken := serde.decode(tuple[str, ...], validated.notes["broken"]):
        raise ParityFailed(
            f"a run with failed checks cannot be packed: {broken[0]}", "`deploytool blame` names the layer"
        )
    folder.mkdir()
    manifest = _write_files(folder, job, inputs, validated)
    write_manifest(folder, manifest)
    check_files(folder, read_manifest(folder))
    size = sum(file.size for file in all_files(manifest))
    return {"digest": content_digest(manifest), "sequence": manifest.sequence, "bytes": size}


def _write_files(folder: Path, job: Job, inputs: StageInputs, validated: Artifact) -> Manifest:
    """Writes every file of the bundle but the manifest, which it returns."""
    result, sample = report.read(validated.path), inputs.golden()
    content = _content(inputs, validated.notes, storage.load_structure(_graphs(inputs)[0].path))
    tolerances = metrics.tolerances(sample.noise, verdict.requested_tolerances(result))
    batch = content.model.inputs[0].shape[0]
    golden_files = _write_golden(folder, sample, batch if isinstance(batch, int) else 1)
    recorded = serde.decode(tuple[RecordedCorner, ...], validated.notes.get(NOTE, []))
    at_corners = partial(corner_files.int8, folder, validated.path.parent, recorded)
    graphs = _write_all_graphs(folder, content, inputs, result, golden_files.cases, at_corners)
    usual = at_once(golden_files.cases, content.free[BATCH])
    corners = corner_files.write(folder, validated.path.parent, recorded, content.free, graphs.every, usual)
    engines, engine_choice = _write_engines(folder, content, inputs, result, graphs.quantised.int8)
    recipe_file = recipe.write(folder, graphs.half, content.inputs, content.free, content.builder)
    packed_tool = tool.write(folder, job.options.wheels) if job.options.tool else ()
    precisions = (*FLOATS, *([Precision.BF16] if inputs.chain(Kind.BF16_GRAPH) else []))
    return Manifest(
        schema=schema_of(graphs.every, engines, corners),
        name=content.name,
        sequence=job.options.sequence,
        inputs=content.inputs,
        outputs=content.outputs,
        free=content.free,
        preprocessing=content.model.preprocessing,
        classes=serde.decode(tuple[str, ...], inputs.latest(Kind.GOLDEN).notes.get("classes", [])),
        graphs=graphs.every,
        floor=graphs.floor,
        tried=next((result.versions[name] for name in _RUNTIMES if name in result.versions), ""),
        golden=golden_files,
        tolerances={precision: tolerances.of(precision) for precision in precisions},
        recipe=recipe_file,
        files=_files(folder, without={file.path for file in (*(engine.file for engine in engines), *packed_tool)}),
        engines=engines,
        targets=result.targets,
        provenance=_provenance(inputs, result, content.model),
        task=fit.shown(content.model.task, sample.outputs),
        decoding=content.model.decoding,
        best=graphs.best,
        int8=graphs.quantised.int8,
        int8_for={**graphs.quantised.choices, **engine_choice},
        tool=packed_tool,
        corners=corners,
    )


def _write_all_graphs(
    folder: Path, content: _Content, inputs: StageInputs, result: Report, cases: int, corners: CornerAnswers
) -> _Graphs:
    """Writes the graphs of every precision; `cases` is the number of golden cases."""
    single, half = _graphs(inputs)
    both = _write_graphs(folder, content, single, half)
    more, best = _write_openvino_graph(folder, single)
    floor = _floor(inputs, (*both, *more))
    int8 = _write_int8(folder, content, inputs, result, cases, corners)
    chain = inputs.chain(Kind.FP8_GRAPH)
    fp8 = next((int8_files.write_fp8(folder, each, result, cases, corners) for each in chain), Int8Files())
    every = (*both, *more, *int8.graphs, *fp8.graphs)
    measured = tuple(_with_memory(folder, graph, content.free, cases) for graph in every)
    quantised = Int8Files((*int8.graphs, *fp8.graphs), (*int8.int8, *fp8.int8), int8.choices)
    return _Graphs(both[-1], measured, floor, best, quantised)


def _files(folder: Path, without: Collection[str]) -> tuple[File, ...]:
    """The entries of all files in the bundle, ordered by path."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return tuple(describe_file(folder, path, _role(path)) for path in paths if path not in without)


def _graphs(inputs: StageInputs) -> tuple[Artifact, Artifact]:
    """The last FP32 graph and the FP16 graph."""
    chain = inputs.chain(Kind.GRAPH)
    single = [graph for graph in chain if graph.made_by is not Stage.FP16]
    if len(single) == len(chain):
        raise StageFailed("the run has no FP16 graph to pack", f"export again with the {Stage.FP16} stage")
    return single[-1], chain[-1]


def _content(inputs: StageInputs, notes: Notes, graph: onnx.ModelProto) -> _Content:
    model = inputs.source().definition
    serves = serde.decode(dict[str, serde.Json], notes["serves"])
    declared = {tensor.name: tensor for tensor in model.inputs}
    feeds = tuple(_as_declared(_tensor(value), declared.get(value.name)) for value in graph.graph.input)
    outputs = tuple(_tensor(value) for value in graph.graph.output)
    name = re.sub(r"[^A-Za-z0-9_.+-]", "_", model.name).lstrip(".+-") or "model"
    free = serde.decode(Mapping[str, Range], serves["free"])  # type: ignore[type-abstract]  # decode makes a dict
    builder = serde.decode(BuilderSettings, serves["builder"])
    return _Content(name, model, feeds, outputs, free, serde.decode(Precision, serves["io"]), builder)


def _as_declared(tensor: Tensor, declared: Tensor | None) -> Tensor:
    """An input of the graph with the bound and the kind of values that the model declares for it."""
    return replace(tensor, below=declared.below, fill=declared.fill) if declared else tensor


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    """The name, shape and dtype of a graph input or output; an unnamed dynamic dimension is `?`."""
    typed = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(typed.elem_type).name
    shape = (size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in typed.shape.dim)
    return Tensor(value.name, tuple(shape), dtype)


def _write_graphs(folder: Path, content: _Content, single: Artifact, half: Artifact) -> tuple[Graph, ...]:
    """Writes both graphs, each as a model of a Triton model repository."""
    graphs = []
    for artifact, name, precision in (
        (single, content.name, Precision.FP32),
        (half, f"{content.name}_{Precision.FP16}", Precision.FP16),
    ):
        io = content.io if precision is Precision.FP16 else Precision.FP32
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        storage.copy(artifact.path, version / "model.onnx")
        text = triton_config.graph_config(name, content.inputs, content.outputs, io, content.free[BATCH].largest)
        version.with_name("config.pbtxt").write_text(text, encoding="utf-8")
        graphs.append(int8_files.graph_entry(artifact.path, f"models/{name}/1/model.onnx", precision, io))
    return tuple(graphs)


def _write_int8(
    folder: Path, content: _Content, inputs: StageInputs, result: Report, cases: int, corners: CornerAnswers
) -> Int8Files:
    """Writes the INT8 graphs that are not worse and bring a gain, the one for CPUs as a model of the repository."""
    name = f"{content.name}_{Precision.INT8}"
    path = f"models/{name}/1/model.onnx"
    written = Int8Files()
    for artifact in inputs.chain(Kind.INT8_GRAPH) if int8_choice.is_choice(result) else ():
        written = int8_files.write(folder, path, artifact, result, cases, corners)
    if (folder / path).exists():
        largest = content.free[BATCH].largest
        text = triton_config.graph_config(name, content.inputs, content.outputs, Precision.FP32, largest)
        (folder / path).parent.with_name("config.pbtxt").write_text(text, encoding="utf-8")
    return written


def _write_openvino_graph(folder: Path, single: Artifact) -> tuple[tuple[Graph, ...], dict[str, str]]:
    """Writes the FP32 graph that is fastest in OpenVINO, if it is another one, and says which graph is for whom.

    It stands outside of the Triton model repository, which has one model for all.
    """
    source = openvino_graph(single.path)
    if source is None:
        return (), {}
    (folder / "openvino").mkdir()
    storage.copy(source, folder / _OPENVINO_PATH)
    graph = int8_files.graph_entry(source, _OPENVINO_PATH, Precision.FP32)
    return (graph,), {runtimes.OPENVINO: _OPENVINO_PATH}


def _floor(inputs: StageInputs, graphs: Sequence[Graph]) -> dict[str, str]:
    """The oldest runtimes that the export was for; raises StageFailed if a graph is too new for one of them."""
    (exported,) = (graph for graph in inputs.chain(Kind.GRAPH) if graph.made_by is Stage.EXPORT)
    floor = serde.decode(dict[str, str], exported.notes.get("floor", {}))
    for runtime, version in floor.items():
        for graph in graphs:
            if why := runtimes.refusal(runtime, version, graph.ir_version, graph.opset):
                raise StageFailed(f"{graph.path}: {why}", "report this as a bug, or raise --floor")
    return floor


def _with_memory(folder: Path, graph: Graph, free: Mapping[str, Range], cases: int) -> Graph:
    """The graph with the memory, in MiB, that a run of the golden cases needs at the largest sizes."""
    sizes = {name: size.largest for name, size in free.items()} | {BATCH: at_once(cases, free[BATCH])}
    model = storage.load_structure(folder / graph.path)
    required = memory.required_mib(model, sizes, cases)
    return replace(graph, memory_mib=required if required and required <= MAX_MEMORY_MIB else None)


def _write_golden(folder: Path, sample: Golden, batch: int) -> GoldenFiles:
    """Writes the first golden cases, as many as whole batches allow, and their images."""
    (folder / "golden").mkdir()
    few = golden.first_cases(sample, max(batch, _CASES // batch * batch))
    golden.write(folder / "golden" / "golden.npz", few)
    names = _write_images(folder, few.pixels, "")
    further = tuple(
        InputImages(name, _write_images(folder, pixels, f"_{number}"))
        for number, (name, pixels) in enumerate(few.further_pixels.items(), 1)
    )
    return GoldenFiles("golden/golden.npz", len(few.labels), names, further)


def _write_images(folder: Path, pixels: Pixels, suffix: str) -> tuple[str, ...]:
    """Writes the images of an input; `suffix` follows the number of the case in the names."""
    names = [f"golden/case_{number}{suffix}.png" for number in range(len(pixels)) if pixels.size]
    for name, image in zip(names, pixels, strict=False):
        images.write(folder / name, image)
    return tuple(names)


def _write_engines(
    folder: Path, content: _Content, inputs: StageInputs, result: Report, narrow: Sequence[Int8Graph]
) -> tuple[tuple[Engine, ...], dict[str, Choice]]:
    """Writes the engines, the fastest precision first, and the choice of INT8 or not if an INT8 engine was built.

    An INT8 engine is written if it is faster than the FP16 engine of its plan and not worse, one in FP8 if its graph is
    written, which proves it on a device. Those in FP16 of the full TensorRT with weights form a model of the Triton
    repository.
    """
    ranked: list[tuple[int, Engine]] = []
    choices: dict[str, Choice] = {}
    plans: dict[str, str] = {}  # compute capability: file
    proved = {each.precision for each in narrow if each.form.for_engines}
    for artifact in inputs.chain(Kind.ENGINE):
        for built in serde.decode(tuple[report.Engine, ...], artifact.notes["engines"]):
            capabilities = _capabilities(built, result.targets)
            choice = int8_choice.for_engine(result, built.file)
            is_int8, is_half = built.precision is Precision.INT8, built.precision is Precision.FP16
            unproved = built.precision in _EIGHT_BITS and built.precision not in proved
            if not capabilities or unproved or (is_int8 and not choice.path):
                choices |= {runtimes.TRT: replace(choice, path="")} if is_int8 and not choices else {}
                continue
            for_triton = is_half and built.flavour == TENSORRT and not built.stripped
            prefix = "" if is_half else f"{built.precision}_"
            file = f"{prefix}{built.flavour}_{built.version}_{'_'.join(capabilities)}.plan"
            directory = f"models/{content.name}_trt/1" if for_triton else "engines"
            (folder / directory).mkdir(parents=True, exist_ok=True)
            disk.write(folder / directory / file, artifact.path.with_name(built.file).read_bytes())
            entry = describe_file(folder, f"{directory}/{file}", Role.ENGINE)
            ranked.append((_rank(built, result), _engine(entry, built, capabilities, content.io)))
            choices |= {runtimes.TRT: replace(choice, path=entry.path)} if is_int8 else {}
            plans |= dict.fromkeys(capabilities, file) if for_triton else {}
    if plans:
        name, largest = f"{content.name}_trt", content.free[BATCH].largest
        text = triton_config.engine_config(name, content.inputs, content.outputs, content.io, largest, plans)
        (folder / "models" / name / "config.pbtxt").write_text(text, encoding="utf-8")
    return tuple(engine for _, engine in sorted(ranked, key=lambda pair: pair[0])), choices


def _rank(built: report.Engine, result: Report) -> int:
    """The place of an engine among those for one GPU: FP16 comes before what was not measured to be faster."""
    speeds = {speed.file: speed.own_gain for speed in result.speeds if speed.stage is Stage.BUILD}
    gain = speeds.get(built.file)
    if built.precision is Precision.FP16:
        return 1
    return 0 if gain and gain.low > 1 else 2


def _engine(file: File, built: report.Engine, capabilities: tuple[str, ...], io: Precision) -> Engine:
    """The manifest entry of an engine; one of TensorRT runs on the platform that built it, one of RTX on any system."""
    systems: tuple[str, ...] = (platform.system().lower(),)
    processors: tuple[str, ...] = (platform.machine(),)
    if built.flavour != TENSORRT:
        systems = ("linux", "windows")
        processors = ("x86_64", "aarch64") if "12.1" in capabilities else ("x86_64",)  # 12.1 is an Arm machine
    min_cuda = next((f"{major}.0" for major in (13, 12) if machine.version(f"{built.flavour}-cu{major}")), "")
    io = io if built.precision is Precision.FP16 else Precision.FP32
    return Engine(
        *(file, built.flavour, built.version, capabilities, systems, processors, min_cuda, built.precision, io),
        stripped=built.stripped,
    )


def _capabilities(built: report.Engine, targets: Sequence[Decision]) -> tuple[str, ...]:
    """The compute capabilities that an engine supports, of those that compute in its precision.

    An engine without a list supports those of this machine.
    """
    listed = built.capabilities or FLAVOURS[built.flavour].default_capabilities
    if not listed:
        local = (target for target in targets if target.verdict is TargetPlan.HERE and target.flavour == TENSORRT)
        listed = tuple(sorted({target.capability for target in local}))
    return tuple(each for each in listed if precision_problem(each, built.precision) is None)


def _provenance(inputs: StageInputs, result: Report, model: Model) -> Provenance:
    """The origin of the bundle, without paths of this machine and without anything that differs between equal runs."""
    kinds = (Kind.WEIGHTS, Kind.GOLDEN, Kind.GRAPH, Kind.INT8_GRAPH, Kind.BF16_GRAPH, Kind.FP8_GRAPH)
    exported = [graph.notes for graph in inputs.chain(Kind.GRAPH) if graph.made_by is Stage.EXPORT]
    return Provenance(
        factory=_public_reference(model),
        arguments=model.options,
        weights=inputs.latest(Kind.WEIGHTS).digest,
        artifacts={artifact.made_by: artifact.digest for artifact in inputs.artifacts if artifact.kind in kinds},
        versions=result.versions,
        choices={name: str(notes[name]) for notes in exported for name in ("exporter", "opset")},
    )


def _public_reference(model: Model) -> str:
    """The factory without the folders of this machine; a model in the cache of a hub keeps its name there."""
    if doors.is_hub(model.factory):
        return doors.public_reference(model.factory)
    path, colon, function = model.factory.rpartition(":") if model.given is None else (model.factory, "", "")
    return f"{Path(path).name}{colon}{function}"


def _role(path: str) -> Role:
    if path.startswith("golden/"):
        return Role.GOLDEN if path.endswith(".npz") else Role.IMAGE
    if path.endswith(".onnx"):
        return Role.GRAPH
    if path.endswith(".onnx" + side_files.SUFFIX):
        return Role.WEIGHTS
    return Role.SERVER if path.endswith(".pbtxt") else Role.RECIPE
