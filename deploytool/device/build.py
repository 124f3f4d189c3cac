"""Builds an engine on the device it is for, proves it with the golden cases, and keeps it beside the bundle."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from deploytool import serde
from deploytool.bundle.manifest import File, Manifest, Role, describe_file, engine_recipe, manifest_digest
from deploytool.device import probe
from deploytool.device.candidates import Candidate, Tier, missing
from deploytool.device.environment import Environment
from deploytool.device.probe import Limits, Prober
from deploytool.device.worker import Request, Trial
from deploytool.errors import BadInput, DeployError, MissingBackend, ParityFailed, StageFailed
from deploytool.host import disk, files, locks, owner, workers
from deploytool.spec import Precision
from deploytool.targets import FLAVOURS, RTX

_MAKING = ".making-"
_HOURS = Limits(seconds=4 * 3600.0, writes=workers.LARGEST_FILE)  # TensorRT times every kernel it knows


@dataclass(frozen=True)
class Record:
    """An engine that was built here: of which bundle and graph, by what, for which GPU, and what its trial showed.

    There is no trial as long as nobody has run it.
    """

    digest: str
    graph: str
    flavour: str
    version: str
    gpu: str
    capability: str
    cuda: str
    precision: Precision
    io: Precision
    file: File
    trial: Trial | None


def engine_path(folder: Path) -> Path:
    """Where engines built here are kept: beside the bundle and not in it, for no manifest knows them."""
    return folder.absolute().with_name(f"{folder.absolute().name}.built")


def flavour(found: Environment) -> str:
    """Which TensorRT builds here; raises MissingBackend if none does."""
    if not found.capability:
        raise MissingBackend("no CUDA GPU answers here, and an engine is built on the GPU it is for", "build it there")
    for name, product in FLAVOURS.items():
        if found.version(name) and product.supports(found.capability):
            return name
    why = "TensorRT-RTX does not know it" if found.version(RTX) else "no TensorRT is installed"
    raise MissingBackend(f"no engine can be built for {found.gpu}: {why}", "install the full TensorRT")


def read_record(folder: Path, manifest: Manifest, found: Environment, built: Path) -> Candidate:
    """The engine that was built and proved here, as a way to run the bundle; else a way with the reason."""
    try:
        name = flavour(found)
        record = _read(built, folder, manifest, found, name)
    except DeployError as error:
        return missing(Tier.BUILT, str(error))
    if record is None or record.trial is None:
        return missing(Tier.BUILT, "none was built here yet: `deploytool build` makes one")
    return _way(built, record)


def build(
    folder: Path,
    manifest: Manifest,
    found: Environment,
    built: Path,
    prober: Prober,
    watch: Callable[[int, int], None],
) -> Record:
    """The engine for this machine, built if it is not there yet, and proved.

    What an earlier call finished is kept: an engine that was built and not yet proved is only proved. Raises
    MissingBackend where nothing can build it, StageFailed or ParityFailed if it is refused or computes something else.
    """
    name = flavour(found)
    with _alone(built):
        record = _read(built, folder, manifest, found, name) or _make(folder, manifest, found, built, name, watch)
        return record if record.trial else _proved(built, record, prober)


def _proved(built: Path, record: Record, prober: Prober) -> Record:
    """The record with its trial; an engine that fails it is thrown away."""
    tried = prober(_way(built, record))
    if not tried.passed:
        _forget(built, record)
        failure = ParityFailed if tried.trial else StageFailed
        raise failure(f"the engine built here was thrown away: {tried.reason}", "run the graph: see `verify`")
    proved = replace(record, trial=tried.trial)
    _write(built, proved)
    return proved


def _make(
    folder: Path, manifest: Manifest, found: Environment, built: Path, name: str, watch: Callable[[int, int], None]
) -> Record:
    graph = next(graph for graph in manifest.graphs if graph.path == engine_recipe(folder, manifest).graph)
    source = next(file for file in manifest.files if file.path == graph.path)
    way = Candidate(
        *(Tier.BUILT, str(folder / source.path), source.size, source.sha256),
        *("onnx", "cuda", name),
        precision=graph.precision,
        io=graph.io,
    )
    path = f"{name}_{found.version(name)}_{found.capability}.plan"
    disk.check(built, 2 * source.size, path)  # an engine has about as many bytes as its graph, and is copied once
    with tempfile.TemporaryDirectory(prefix=f"{_MAKING}{owner.name()}-", dir=built) as bench:
        made = Path(bench, path)
        capabilities = () if FLAVOURS[name].needs_gpu else (found.capability,)
        request = Request("build", str(folder), manifest, way, "", out=str(made), capabilities=capabilities)
        probe.ask(request, limits=_HOURS, heard=lambda line: _heard(line, watch))
        file = describe_file(Path(bench), path, Role.ENGINE)
        files.verify_file(made, file.size, file.sha256, made.with_suffix(".whole"))  # a synced copy
        made.with_suffix(".whole").replace(built / path)
    record = Record(
        *(manifest_digest(folder), source.sha256, name, found.version(name), found.gpu, found.capability, found.cuda),
        *(graph.precision, graph.io, file, None),
    )
    _write(built, record)
    return record


def _heard(line: str, watch: Callable[[int, int], None]) -> None:
    done, slash, total = line.strip().partition("/")
    if slash and done.isdecimal() and total.isdecimal():  # TensorRT may speak there too
        watch(int(done), int(total))


@contextmanager
def _alone(built: Path) -> Iterator[None]:
    """One build at a time, which sweeps what a killed one left."""
    built.mkdir(mode=0o700, exist_ok=True)
    _ours(built)
    with locks.folder(built):
        files.sweep(built, f"{_MAKING}*")
        yield


def _ours(built: Path) -> None:
    """An engine is native code: it is taken only from a folder that nobody else can write."""
    found = built.lstat()
    if not stat.S_ISDIR(found.st_mode) or not owner.is_trusted(found) or owner.grants(found, 0o022):
        raise BadInput(f"{built} is not a folder that only you can write", "remove it, and build again")


def _read(built: Path, folder: Path, manifest: Manifest, found: Environment, name: str) -> Record | None:
    """The record of this machine's engine for this bundle, if it and the engine are as they were left."""
    path = built / f"{name}_{found.version(name)}_{found.capability}.plan"
    if not path.with_suffix(".json").exists():
        return None
    _ours(built)
    try:
        record = serde.decode(Record, serde.loads(files.read(path.with_suffix(".json"), 1 << 20)))
        files.verify_file(built / path.name, record.file.size, record.file.sha256)
    except (DeployError, serde.Malformed):
        return None
    graphs = {file.sha256 for file in manifest.files}
    same = (record.digest, record.gpu, record.cuda) == (manifest_digest(folder), found.gpu, found.cuda)
    return record if same and record.graph in graphs and record.file.path == path.name else None


def _way(built: Path, record: Record) -> Candidate:
    path = str(built / record.file.path)
    return Candidate(
        *(Tier.BUILT, path, record.file.size, record.file.sha256),
        *("tensorrt", "cuda", record.flavour),
        precision=record.precision,
        io=record.io,
    )


def _write(built: Path, record: Record) -> None:
    path = built / Path(record.file.path).with_suffix(".json")
    files.publish(path, serde.text(record).encode())


def _forget(built: Path, record: Record) -> None:
    for path in (Path(record.file.path).with_suffix(".json"), Path(record.file.path)):
        (built / path).unlink(missing_ok=True)
