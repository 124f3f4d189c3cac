"""What leaves for a device: a folder whose manifest names every file by size and SHA-256, and what it is for."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from deploytool import serde
from deploytool.data import preprocess
from deploytool.errors import Refused
from deploytool.host import files
from deploytool.results.output_parts import OutputPart
from deploytool.results.report import Limits
from deploytool.spec import BATCH, Decision, Option, Precision, Preprocessing, Range, Tensor

SCHEMA = "deploytool.bundle.manifest/3"
MANIFEST_FILE, SIGNATURE_FILE, SUBSET_FILE = "manifest.json", "model.sig", "subset.json"
BESIDE = (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    SUBSET_FILE,
)  # what no manifest names: itself, what signs it, and what was left out here
MOST_MIB = 8192  # what a child may take that runs a graph, whatever the manifest says
LONGEST_MANIFEST = 4 << 20  # bytes of a manifest or signature: nobody may fill our memory
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Role(str, Enum):
    """What a file of a bundle is for."""

    GRAPH = "graph"
    ENGINE = "engine"
    GOLDEN = "golden"
    IMAGE = "image"
    RECIPE = "recipe"
    SERVER = "server"


@dataclass(frozen=True)
class File:
    """One file: its path in the bundle with slashes, its size in bytes, the SHA-256 of its bytes."""

    path: str
    size: int
    sha256: str
    role: Role


@dataclass(frozen=True)
class Graph:
    """One ONNX graph; `precision` is fp32 or fp16, and `io` the type of its floating-point inputs and outputs.

    `memory_mib` is what a run of the golden cases may take on a CPU beyond an empty session, None where nobody knows.
    """

    path: str
    precision: Precision
    io: Precision
    memory_mib: int | None = None


@dataclass(frozen=True)
class Engine:
    """One engine, and the machines it is for: exactly this release, and one of each list.

    `capabilities` are those of the GPU, such as 8.9; `systems` such as linux; `processors` such as x86_64; `cuda` is
    the driver floor, the CUDA version that the driver must at least serve, empty where none is known.
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


@dataclass(frozen=True)
class GoldenFiles:
    """The golden cases: the file with their tensors and answers, and a picture of each case that is one."""

    path: str
    cases: int
    images: tuple[str, ...]


@dataclass(frozen=True)
class Provenance:
    """Where it all came from: the definition, the weights (SHA-256), the artifacts by stage, versions and choices."""

    factory: str
    arguments: Mapping[str, Option]
    weights: str
    artifacts: Mapping[str, str]
    versions: Mapping[str, str]
    choices: Mapping[str, Option]


@dataclass(frozen=True)
class Manifest:
    """Everything there is to know of a bundle, before one byte of its other files is believed.

    `files` are all files but the engines, which no builder makes twice alike and which name their own; `free` gives
    the range of every free size of the inputs, the batch with them; `classes` the names of the classes in their order,
    none where nobody knows them; `tolerances` how far an answer may stray, by precision; a later `sequence` replaces a
    lower one and never the other way round.
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
    golden: GoldenFiles
    tolerances: Mapping[str, Limits]
    recipe: str
    files: tuple[File, ...]
    engines: tuple[Engine, ...]
    targets: tuple[Decision, ...]
    provenance: Provenance


@dataclass(frozen=True)
class EngineRecipe:
    """How a device builds its own engine: from which graph, for which sizes; `trtexec` says the same in one line."""

    graph: str
    precision: Precision
    io: Precision
    inputs: tuple[Tensor, ...]
    free: Mapping[str, Range]
    trtexec: str


def all_files(manifest: Manifest) -> tuple[File, ...]:
    """All files of a bundle, engines too, in the order of their paths."""
    return tuple(sorted((*manifest.files, *(engine.file for engine in manifest.engines)), key=lambda file: file.path))


def content_digest(manifest: Manifest) -> str:
    """The same for the same inputs: a digest of everything but the engines and what became of the targets."""
    return hashlib.sha256(serde.text(replace(manifest, engines=(), targets=())).encode()).hexdigest()


def manifest_digest(folder: Path) -> str:
    """The SHA-256 of the manifest: the name of this very bundle, engines and all, down to the last byte."""
    return manifest_digest_of(manifest_bytes(folder))


def manifest_digest_of(manifest: bytes) -> str:
    """The digest of a bundle with this manifest."""
    return hashlib.sha256(manifest).hexdigest()


def manifest_bytes(folder: Path) -> bytes:
    """The bytes of a bundle's manifest, not looked at."""
    return files.read(folder / MANIFEST_FILE, LONGEST_MANIFEST)


def describe_file(folder: Path, path: str, role: Role) -> File:
    """The entry of a file as it is now."""
    return File(path, (folder / path).stat().st_size, serde.file_digest(folder / path), role)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Puts the manifest beside the files it names."""
    (folder / MANIFEST_FILE).write_text(serde.text(manifest), encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle; nothing else is read. Raises what `parsed` raises."""
    return parse_manifest(manifest_bytes(folder), folder)


def parse_manifest(manifest: bytes, folder: Path) -> Manifest:
    """The manifest in some bytes, those of a bundle in `folder`.

    Raises Refused if there is none, if it is of another version, or if it is not written as we write it: each value
    has one text, so that what was read is what was signed.
    """
    try:
        data = serde.loads(manifest)
        kind = data.get("schema") if isinstance(data, Mapping) else None
        if isinstance(kind, str) and kind != SCHEMA:
            raise Refused(f"{folder} is a bundle of another kind: {kind[:60]!r}", "use the deploytool it is for")
        found = serde.decode(Manifest, data)
        canonical = serde.text(found).encode() == manifest
    except (ValueError, TypeError) as error:
        raise Refused(f"{folder / MANIFEST_FILE} is no manifest of this version: {error}", files.AGAIN) from error
    problem = _problem(found) if canonical else "it is not written as deploytool writes it"
    if problem:
        raise Refused(f"{folder / MANIFEST_FILE} cannot be right: {problem}", files.AGAIN)
    return found


def _problem(manifest: Manifest) -> str | None:
    """What is wrong with a manifest whose values have the right types."""
    listed = all_files(manifest)
    for file in listed:
        if not _PATH.fullmatch(file.path) or file.path in BESIDE:
            return f"{file.path!r} is no path in a bundle"
        if file.size < 0 or not _SHA256.fullmatch(file.sha256):
            return f"{file.path} has no size or no digest"
    if len({file.path.casefold() for file in listed}) < len(listed):
        return "it names a file twice"
    if manifest.sequence < 0:
        return "its sequence is no number"
    named = [graph.path for graph in manifest.graphs] + [manifest.golden.path, manifest.recipe, *manifest.golden.images]
    if not manifest.graphs:
        return "it has no graph"
    if not all(graph.memory_mib is None or 0 < graph.memory_mib <= MOST_MIB for graph in manifest.graphs):
        return "a graph takes no memory, or more than any may"
    unknown = sorted(set(named) - {file.path for file in manifest.files})
    if unknown:
        return f"it speaks of {unknown[0]}, and lists no such file"
    if any(engine.file.role is not Role.ENGINE for engine in manifest.engines):
        return "an engine is listed as something else"
    return _unbounded(manifest)


def _unbounded(manifest: Manifest) -> str | None:
    """The first size that would trip whoever uses it."""
    ranges = [size for each in manifest.free.values() for size in (each.smallest, each.typical, each.largest)]
    if BATCH not in manifest.free or not all(0 < size < 1 << 31 for size in ranges):
        return "a free size has no range"
    if not manifest.inputs or not manifest.outputs:
        return "it has no inputs or no outputs"
    if not preprocess.is_valid(manifest.preprocessing):
        return "its pictures cannot be prepared"
    if not all(name.isprintable() for name in manifest.classes):
        return "a class has a name that cannot be shown"
    if not {graph.precision for graph in manifest.graphs} <= set(manifest.tolerances):
        return "a precision has no tolerance"
    parts = [limit.part for each in manifest.tolerances.values() for limit in each.parts]
    return None if all(_sensible(part) for part in parts) else "a part of an output is none"


def _sensible(part: OutputPart) -> bool:
    """Whether a part has channels that an output can have."""
    inside = all(0 <= start < stop <= part.size for start, stop in part.spans)
    return inside and 0 <= part.axis < 64 and bool(part.spans) == bool(part.axis)


def is_digest(text: str) -> bool:
    """Whether a text is what `digest` gives: it names a folder where bundles are installed."""
    return _SHA256.fullmatch(text) is not None


def read_verified(folder: Path, manifest: Manifest, path: str) -> bytes:
    """The bytes of a file that a manifest lists, which are those that it names; raises Refused for others."""
    named = next(file for file in all_files(manifest) if file.path == path)
    return files.read_verified(folder / path, named.size, named.sha256)


def engine_recipe(folder: Path, manifest: Manifest) -> EngineRecipe:
    """How to build an engine on the device; raises Refused if the file is something else."""
    try:
        return serde.decode(EngineRecipe, serde.loads(read_verified(folder, manifest, manifest.recipe)))
    except serde.Malformed as error:
        raise Refused(f"{folder / manifest.recipe} is no recipe: {error}", files.AGAIN) from error


def check_files(folder: Path, manifest: Manifest, absent: Iterable[str] = ()) -> None:
    """Holds every file against the manifest: names and kinds first, then sizes and digests; nothing is parsed.

    `absent` are paths that may be missing, as engines of other devices are where only one's own were fetched. Raises
    Refused for a file that is missing, one too many, no plain file, or of other bytes.
    """
    listed = {file.path: file for file in all_files(manifest)}
    folders = {path[: slash.start()] for path in listed for slash in re.finditer("/", path)}
    found = dict(files.listing(folder))
    for path, mode in sorted(found.items()):
        if path not in {*listed, *folders, *BESIDE}:
            raise Refused(f"{folder / path} is not in the manifest", files.AGAIN)
        if not (stat.S_ISDIR(mode) if path in folders else stat.S_ISREG(mode)):
            raise Refused(f"{folder / path} is no plain file", files.AGAIN)
    missing = sorted(set(listed) - set(found) - set(absent))
    if missing:
        raise Refused(f"{folder / missing[0]} is missing", files.AGAIN)
    for path in sorted(set(listed) & set(found)):
        files.verify_file(folder / path, listed[path].size, listed[path].sha256)
