"""Reads, writes and checks the manifest of a bundle, which lists every file with its size and SHA-256."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from deploytool import runtimes, serde
from deploytool.builder_settings import UNSET, BuilderSettings
from deploytool.bundle import corners, value_checks
from deploytool.bundle.corners import Corner
from deploytool.bundle.int8 import ENGINE_FORMS, Choice, Int8Graph
from deploytool.data import preprocess
from deploytool.errors import Refused
from deploytool.host import files
from deploytool.results.report import Limits
from deploytool.spec import ADDED, BATCH, Decision, Decoding, Option, Precision, Preprocessing, Range, Task, Tensor

SCHEMA = "deploytool.bundle/4"
NARROW_SCHEMA = "deploytool.bundle/5"  # of a bundle with narrower precisions: older versions name it and refuse
CORNERS_SCHEMA = "deploytool.bundle/6"  # of one with corners, in any precision
MANIFEST_FILE, SIGNATURE_FILE, SUBSET_FILE = "manifest.json", "model.sig", "subset.json"
TOOL_FOLDER = "tool"  # deploytool itself, in a bundle that was packed with it
UNLISTED_FILES = (MANIFEST_FILE, SIGNATURE_FILE, SUBSET_FILE)  # itself, its signature, the record of omitted engines
MAX_MEMORY_MIB = 8192  # limit of a child process that runs a graph, whatever the manifest states
MAX_MANIFEST_BYTES = 4 << 20  # also of a signature: a larger file must not fill the memory
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Role(str, Enum):
    """The purpose of a file in a bundle."""

    GRAPH = "graph"
    WEIGHTS = "weights"  # a side file of a graph, only in bundles of graphs beyond 2 GB
    ENGINE = "engine"
    GOLDEN = "golden"
    IMAGE = "image"
    RECIPE = "recipe"
    SERVER = "server"
    TOOL = "tool"  # a wheel of deploytool or of what it needs, or their installer


@dataclass(frozen=True)
class File:
    """One file: its path in the bundle, with slashes, its size in bytes, and its SHA-256."""

    path: str
    size: int
    sha256: str
    role: Role


@dataclass(frozen=True)
class Graph:
    """One ONNX graph; `precision` is fp32, fp16, int8 or fp8, `io` the type of its floating-point inputs and outputs.

    `ir_version` and `opset` are the versions of ONNX that it is written in. `memory_mib` is the memory that the golden
    cases may need on a CPU beyond an empty session, None if it is unknown.
    """

    path: str
    precision: Precision
    io: Precision
    ir_version: int
    opset: int
    memory_mib: int | None = None


@dataclass(frozen=True)
class Engine:
    """One engine, and the machines that can run it: exactly this TensorRT version, and one of each list.

    `capabilities` are compute capabilities of the GPU, such as 8.9; `systems` such as linux; `processors` such as
    x86_64; `cuda` is the lowest CUDA version that the driver must support, empty if it is unknown. The weights of a
    `stripped` one are those of the first graph of its precision.
    """

    file: File
    flavour: str
    version: str
    capabilities: tuple[str, ...]
    systems: tuple[str, ...]
    processors: tuple[str, ...]
    cuda: str
    precision: Precision
    io: Precision
    stripped: bool = field(default=False, metadata=ADDED)


@dataclass(frozen=True)
class InputImages:
    """The golden images of the input with this name, one for each of the first cases."""

    name: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class GoldenFiles:
    """The golden cases: the file with their inputs and outputs, and an image for each case that is an image.

    `further` are the images of all image inputs but the first.
    """

    path: str
    cases: int
    images: tuple[str, ...]
    further: tuple[InputImages, ...] = field(default=(), metadata=ADDED)

    def by_input(self, first: str) -> Mapping[str, tuple[str, ...]]:
        """The images of every image input by its name, of which `first` is that of the first."""
        return {first: self.images, **{each.name: each.images for each in self.further}}


@dataclass(frozen=True)
class Provenance:
    """The origin of a bundle: factory, weights (SHA-256), artifacts by stage, library versions, and options."""

    factory: str
    arguments: Mapping[str, Option]
    weights: str
    artifacts: Mapping[str, str]
    versions: Mapping[str, str]
    choices: Mapping[str, Option]


@dataclass(frozen=True)
class Manifest:
    """The description of a bundle, read before any of its other files.

    `files` are all files except those of engines, which are not reproducible; `free` gives the range of every dynamic
    dimension of the inputs, including the batch; `classes` are the class names in order, empty if unknown;
    `floor` is the oldest version of each runtime that was asked for, by its name in `deploytool.runtimes`, and `tried`
    the version of the ONNX Runtime that checked the graphs, empty if none did; `tolerances` limit the deviation of the
    outputs, by precision; a bundle is only replaced by a higher `sequence`. `task` is what the outputs mean, None if
    nobody said so; `decoding` is for detectors. `best` is the path of the FP32 graph that is fastest in a runtime, by
    the runtime's name; a runtime that it does not name has the first FP32 graph. `int8` has one entry for each graph in
    INT8 or FP8, and `int8_for` says for each runtime whether it gets INT8; one that it does not name gets none. `tool`
    are the wheels of deploytool and of what it needs, with their installer; none unless they were asked for. A device
    compares the model with the source at each of the `corners`.
    """

    schema: str
    name: str
    sequence: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    free: Mapping[str, Range]
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    graphs: tuple[Graph, ...]
    floor: Mapping[str, str]
    tried: str
    golden: GoldenFiles
    tolerances: Mapping[str, Limits]
    recipe: str
    files: tuple[File, ...]
    engines: tuple[Engine, ...]
    targets: tuple[Decision, ...]
    provenance: Provenance
    task: Task | None = field(default=None, metadata=ADDED)
    decoding: Decoding = field(default=Decoding(), metadata=ADDED)
    best: Mapping[str, str] = field(default_factory=dict, metadata=ADDED)
    int8: tuple[Int8Graph, ...] = field(default=(), metadata=ADDED)
    int8_for: Mapping[str, Choice] = field(default_factory=dict, metadata=ADDED)
    tool: tuple[File, ...] = field(default=(), metadata=ADDED)
    corners: tuple[Corner, ...] = field(default=(), metadata=ADDED)


@dataclass(frozen=True)
class EngineRecipe:
    """How a device builds its own engine: the graph and the range of sizes; `trtexec` is the equivalent command.

    `settings` are those that the engines of the run were built with; the device may have others.
    """

    graph: str
    precision: Precision
    io: Precision
    inputs: tuple[Tensor, ...]
    free: Mapping[str, Range]
    trtexec: str
    settings: BuilderSettings = field(default=UNSET, metadata=ADDED)


def all_files(manifest: Manifest) -> tuple[File, ...]:
    """All files of a bundle, including engines and the tool, sorted by path."""
    engines = (engine.file for engine in manifest.engines)
    return tuple(sorted((*manifest.files, *engines, *manifest.tool), key=lambda file: file.path))


def content_digest(manifest: Manifest) -> str:
    """A reproducible digest: of everything except engines, decisions about targets, the tool, and measured speeds."""
    untimed = {name: replace(choice, gain=None) for name, choice in manifest.int8_for.items()}
    reproducible = replace(manifest, engines=(), targets=(), tool=(), int8_for=untimed)
    return hashlib.sha256(serde.text(reproducible).encode()).hexdigest()


def manifest_digest(folder: Path) -> str:
    """The SHA-256 of the manifest, which identifies the bundle with the bytes of all its files."""
    return manifest_digest_of(manifest_bytes(folder))


def manifest_digest_of(manifest: bytes) -> str:
    """The digest of a bundle with these manifest bytes."""
    return hashlib.sha256(manifest).hexdigest()


def manifest_bytes(folder: Path) -> bytes:
    """The bytes of a bundle's manifest, not parsed."""
    return files.read(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)


def describe_file(folder: Path, path: str, role: Role) -> File:
    """The manifest entry of a file in its present state."""
    return File(path, (folder / path).stat().st_size, serde.file_digest(folder / path), role)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest into the folder of the files that it lists."""
    (folder / MANIFEST_FILE).write_text(serde.text(manifest), encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle; no other file is read. Raises what `parse_manifest` raises."""
    return parse_manifest(manifest_bytes(folder), folder)


def parse_manifest(manifest: bytes, folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`, parsed from its bytes.

    Raises Refused if they are no manifest, if its schema has another version, or if it is not in canonical form: each
    value has one representation, so that what is read is what was signed.
    """
    try:
        data = serde.loads(manifest)
        schema = data.get("schema") if isinstance(data, Mapping) else None
        if isinstance(schema, str) and schema not in (SCHEMA, NARROW_SCHEMA, CORNERS_SCHEMA):
            text = f"{folder} is a bundle of another schema: {schema[:60]!r}"
            raise Refused(text, "use the version of deploytool that made it")
        parsed = serde.decode(Manifest, data)
        is_canonical = serde.text(parsed).encode() == manifest
    except (ValueError, TypeError) as error:
        text = f"{folder / MANIFEST_FILE} is not a manifest of this version: {error}"
        raise Refused(text, files.FETCH_AGAIN) from error
    problem = _problem(parsed) if is_canonical else "it is not in the canonical form that deploytool writes"
    if problem:
        raise Refused(f"{folder / MANIFEST_FILE} is invalid: {problem}", files.FETCH_AGAIN)
    return parsed


def _problem(manifest: Manifest) -> str | None:
    """The first problem of a manifest whose values have the right types; None if it is valid."""
    listed = all_files(manifest)
    for file in listed:
        if not _PATH.fullmatch(file.path) or file.path in UNLISTED_FILES:
            return f"{file.path!r} is not a path in a bundle"
        if file.size < 0 or not _SHA256.fullmatch(file.sha256):
            return f"{file.path} has no valid size or digest"
    if len({file.path.casefold() for file in listed}) < len(listed):
        return "it lists a file twice"
    if manifest.sequence < 0:
        return "its sequence is negative"
    graphs = [graph.path for graph in manifest.graphs]
    further = [path for each in manifest.golden.further for path in each.images]
    referenced = (*graphs, manifest.golden.path, manifest.recipe, *manifest.golden.images, *further)
    referenced += tuple(path for graph in manifest.int8 for path in graph.files)
    if not manifest.graphs:
        return "it has no graph"
    if not all(graph.memory_mib is None or 0 < graph.memory_mib <= MAX_MEMORY_MIB for graph in manifest.graphs):
        return "the memory of a graph is out of range"
    if not all(0 < version < 1 << 31 for graph in manifest.graphs for version in (graph.ir_version, graph.opset)):
        return "the version of a graph is out of range"
    single = {graph.path for graph in manifest.graphs if graph.precision is Precision.FP32}
    if not set(manifest.best) <= {runtimes.ORT, runtimes.OPENVINO} or not set(manifest.best.values()) <= single:
        return "the best graph of a runtime is invalid"
    if problem := _narrow_problem(manifest):
        return problem
    versions = (*manifest.floor.values(), *([manifest.tried] if manifest.tried else []))
    if not set(manifest.floor) <= set(runtimes.TITLES) or not all(map(runtimes.release, versions)):
        return "the version of a runtime is invalid"
    unknown = sorted(set(referenced) - {file.path for file in manifest.files})
    if unknown:
        return f"it refers to {unknown[0]}, and lists no such file"
    if any(engine.file.role is not Role.ENGINE for engine in manifest.engines):
        return "an engine is listed as something else"
    precisions = {graph.precision for graph in manifest.graphs}
    if any(engine.stripped and engine.precision not in precisions for engine in manifest.engines):
        return "an engine without weights has no graph"
    if any((file in manifest.tool) != (file.role is Role.TOOL) for file in listed):
        return "a file of the tool is listed as something else"
    if not all(re.fullmatch(f"{TOOL_FOLDER}/[^/]+", file.path) for file in manifest.tool):
        return "a file of the tool is not in its folder"
    return _model_problem(manifest)


def schema_of(graphs: Iterable[Graph], engines: Iterable[Engine], stated: Sequence[Corner]) -> str:
    """The schema of a bundle of these: the oldest one that has all of them."""
    if stated:
        return CORNERS_SCHEMA
    precisions = {graph.precision for graph in graphs} | {engine.precision for engine in engines}
    return SCHEMA if precisions <= {Precision.FP32, Precision.FP16} else NARROW_SCHEMA


def _narrow_problem(manifest: Manifest) -> str | None:
    """The first problem in what the manifest says of narrower precisions than FP16; None if there is none."""
    if manifest.schema != schema_of(manifest.graphs, manifest.engines, manifest.corners):
        return "its schema is that of other bundles"
    for precision, form in ENGINE_FORMS.items():
        graphs = [graph.path for graph in manifest.graphs if graph.precision is precision]
        if sorted(graphs) != sorted(graph.path for graph in manifest.int8 if graph.precision is precision):
            return f"an {precision.upper()} graph has no golden answers"
        built = any(engine.precision is precision for engine in manifest.engines)
        if built and form not in {graph.form for graph in manifest.int8}:
            return f"an {precision.upper()} engine has no golden answers"
    engines = {engine.file.path for engine in manifest.engines if engine.precision is Precision.INT8}
    for_cpu = {graph.path for graph in manifest.int8 if not graph.form.for_engines}
    allowed = {runtimes.ORT: for_cpu, runtimes.OPENVINO: for_cpu, runtimes.TRT: engines}
    known = all(not each.path or each.path in allowed.get(name, ()) for name, each in manifest.int8_for.items())
    valid = known and set(manifest.int8_for) <= set(allowed)
    return None if valid else "the INT8 graph of a runtime is invalid"


def _model_problem(manifest: Manifest) -> str | None:
    """The first problem in what the manifest says of the model: sizes, preprocessing, classes, tolerances."""
    sizes = [size for bound in manifest.free.values() for size in (bound.smallest, bound.typical, bound.largest)]
    if BATCH not in manifest.free or not all(0 < size < 1 << 31 for size in sizes):
        return "a dynamic dimension has no valid range"
    if not manifest.inputs or not manifest.outputs:
        return "it has no inputs or no outputs"
    listed = {file.path for file in manifest.files}
    if problem := corners.problem(manifest.corners, manifest.free, listed, MAX_MEMORY_MIB):
        return problem
    if not preprocess.is_valid(manifest.preprocessing):
        return "its preprocessing is invalid"
    if not value_checks.is_valid_decoding(manifest.decoding):
        return "its decoding of boxes is invalid"
    if not all(name.isprintable() for name in manifest.classes):
        return "the name of a class is not printable"
    precisions = {graph.precision for graph in manifest.graphs} | {engine.precision for engine in manifest.engines}
    if not precisions - set(ENGINE_FORMS) <= set(manifest.tolerances):
        return "a precision has no tolerance"
    stated = (manifest.tolerances, *(corner.limits for corner in manifest.corners))
    limits = [each for tolerances in stated for each in tolerances.values()]
    limits += [each for graph in manifest.int8 for each in graph.all_limits]
    parts = [limit.part for each in limits for limit in each.parts]
    return None if all(value_checks.is_valid_part(part) for part in parts) else "a part of an output is invalid"


def is_digest(text: str) -> bool:
    """Whether a text is a digest, and can name the folder of an installed bundle."""
    return _SHA256.fullmatch(text) is not None


def read_verified(folder: Path, manifest: Manifest, path: str) -> bytes:
    """The bytes of a file that a manifest lists; raises Refused if their digest differs from the manifest's."""
    listed = next(file for file in all_files(manifest) if file.path == path)
    return files.read_verified(folder / path, listed.size, listed.sha256)


def engine_recipe(folder: Path, manifest: Manifest) -> EngineRecipe:
    """How to build an engine on the device; raises Refused if the file is malformed."""
    try:
        return serde.decode(EngineRecipe, serde.loads(read_verified(folder, manifest, manifest.recipe)))
    except serde.Malformed as error:
        raise Refused(f"{folder / manifest.recipe} is not an engine recipe: {error}", files.FETCH_AGAIN) from error


def check_files(folder: Path, manifest: Manifest, absent: Iterable[str] = ()) -> None:
    """Checks every file against the manifest: names and types first, then sizes and digests; nothing is parsed.

    `absent` are paths that may be missing, such as engines for other targets that were not fetched. Raises Refused for
    a file that is missing, not listed, no regular file, or has another digest.
    """
    listed = {file.path: file for file in all_files(manifest)}
    folders = {path[: slash.start()] for path in listed for slash in re.finditer("/", path)}
    present = dict(files.listing(folder))
    for path, mode in sorted(present.items()):
        if path not in {*listed, *folders, *UNLISTED_FILES}:
            raise Refused(f"{folder / path} is not in the manifest", files.FETCH_AGAIN)
        if not (stat.S_ISDIR(mode) if path in folders else stat.S_ISREG(mode)):
            raise Refused(f"{folder / path} is not a regular file", files.FETCH_AGAIN)
    missing = sorted(set(listed) - set(present) - set(absent))
    if missing:
        raise Refused(f"{folder / missing[0]} is missing", files.FETCH_AGAIN)
    for path in sorted(set(listed) & set(present)):
        files.verify_file(folder / path, listed[path].size, listed[path].sha256)
