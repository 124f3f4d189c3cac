"""Builds an engine on the device, checks it with the golden cases, and keeps it beside the bundle."""

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
from deploytool.device.candidates import Candidate, Tier, side_files, unavailable
from deploytool.device.environment import Environment
from deploytool.device.probe import Limits, Prober
from deploytool.device.worker import Request, Trial
from deploytool.errors import BadInput, DeployError, MissingBackend, ParityFailed, StageFailed
from deploytool.host import disk, files, locks, owner, workers
from deploytool.spec import Precision
from deploytool.targets import FLAVOURS, TENSORRT_RTX

_MAKING = ".making-"
_BUILD_LIMITS = Limits(
    seconds=4 * 3600.0, max_file_bytes=workers.MAX_FILE_BYTES
)  # TensorRT times every kernel it knows


@dataclass(frozen=True)
class Record:
    """An engine built here: from which bundle and graph, by which TensorRT, for which GPU, and its trial.

    `trial` is None until the engine has been run.
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
    """The folder of engines built here: beside the bundle and not in it, since no manifest lists them."""
    return folder.absolute().with_name(f"{folder.absolute().name}.built")


def select_flavour(environment: Environment) -> str:
    """The TensorRT flavour that builds engines here; raises MissingBackend if none does."""
    if not environment.capability:
        problem = "no CUDA GPU answers here, and an engine is built on the GPU that runs it"
        raise MissingBackend(problem, "build it on the device")
    for name, flavour in FLAVOURS.items():
        if environment.version(name) and flavour.supports(environment.capability):
            return name
    reason = "TensorRT-RTX does not support it" if environment.version(TENSORRT_RTX) else "no TensorRT is installed"
    raise MissingBackend(f"no engine can be built for {environment.gpu}: {reason}", "install the full TensorRT")


def built_candidate(folder: Path, manifest: Manifest, environment: Environment, built: Path) -> Candidate:
    """The engine that was built and checked here, as a candidate; an unavailable one with the reason otherwise."""
    try:
        record = _read(built, folder, manifest, environment, select_flavour(environment))
    except DeployError as error:
        return unavailable(Tier.BUILT, str(error))
    if record is None or record.trial is None:
        return unavailable(Tier.BUILT, "none was built here yet: `deploytool build` builds one")
    return _candidate(built, record)


def build(
    folder: Path,
    manifest: Manifest,
    environment: Environment,
    built: Path,
    prober: Prober,
    watch: Callable[[int, int], None],
) -> Record:
    """The engine for this machine, built unless it exists, and checked.

    An engine that an earlier call built and did not check is only checked. `watch` takes the steps done and in total.
    Raises MissingBackend where nothing can build an engine, StageFailed if the engine cannot be built or run, and
    ParityFailed if its outputs are wrong.
    """
    flavour = select_flavour(environment)
    with _exclusive(built):
        record = _read(built, folder, manifest, environment, flavour)
        record = record or _make(folder, manifest, environment, built, flavour, watch)
        return record if record.trial else _check(built, record, prober)


def _check(built: Path, record: Record, prober: Prober) -> Record:
    """The record with its trial; an engine that fails it is deleted."""
    result = prober(_candidate(built, record))
    if not result.passed:
        _delete(built, record)
        failure = ParityFailed if result.trial else StageFailed
        raise failure(f"the engine built here was deleted: {result.reason}", "run the ONNX graph instead: see `verify`")
    checked = replace(record, trial=result.trial)
    _write(built, checked)
    return checked


def _make(
    folder: Path,
    manifest: Manifest,
    environment: Environment,
    built: Path,
    flavour: str,
    watch: Callable[[int, int], None],
) -> Record:
    """Builds the engine in a child process, and publishes it with a record that has no trial yet."""
    graph = next(graph for graph in manifest.graphs if graph.path == engine_recipe(folder, manifest).graph)
    source = next(file for file in manifest.files if file.path == graph.path)
    version, capability = environment.version(flavour), environment.capability
    candidate = Candidate(
        *(Tier.BUILT, str(folder / source.path), source.size, source.sha256),
        *("onnx", "cuda", flavour),
        precision=graph.precision,
        io=graph.io,
        weights=side_files(folder, manifest, source),
    )
    name = _engine_name(flavour, environment)
    size = source.size + sum(side.size for side in candidate.weights)
    disk.check(built, 2 * size, name)  # an engine is about as large as its graph, and is copied once
    with tempfile.TemporaryDirectory(prefix=f"{_MAKING}{owner.name()}-", dir=built) as temporary:
        engine = Path(temporary, name)
        capabilities = () if FLAVOURS[flavour].needs_gpu else (capability,)
        request = Request("build", str(folder), manifest, candidate, "", out=str(engine), capabilities=capabilities)
        probe.run_worker(request, limits=_BUILD_LIMITS, on_line=lambda line: _report_progress(line, watch))
        file = describe_file(Path(temporary), name, Role.ENGINE)
        copy = engine.with_suffix(".whole")
        files.verify_file(engine, file.size, file.sha256, copy)  # the copy is flushed to the disk
        copy.replace(built / name)
    record = Record(
        *(manifest_digest(folder), source.sha256, flavour, version, environment.gpu, capability, environment.cuda),
        *(graph.precision, graph.io, file, None),
    )
    _write(built, record)
    return record


def _engine_name(flavour: str, environment: Environment) -> str:
    return f"{flavour}_{environment.version(flavour)}_{environment.capability}.plan"


def _report_progress(line: str, watch: Callable[[int, int], None]) -> None:
    done, slash, total = line.strip().partition("/")
    if slash and done.isdecimal() and total.isdecimal():  # TensorRT may print other lines
        watch(int(done), int(total))


@contextmanager
def _exclusive(built: Path) -> Iterator[None]:
    """Allows one build at a time, and removes what a killed one left."""
    built.mkdir(mode=0o700, exist_ok=True)
    _check_trusted(built)
    with locks.folder(built):
        files.sweep(built, f"{_MAKING}*")
        yield


def _check_trusted(built: Path) -> None:
    """Raises BadInput unless only this user can write to the folder: an engine is native code."""
    status = built.lstat()
    if not stat.S_ISDIR(status.st_mode) or not owner.is_trusted(status) or owner.grants(status, 0o022):
        raise BadInput(f"{built} is not a folder that only you can write", "remove it, and build again")


def _read(built: Path, folder: Path, manifest: Manifest, environment: Environment, flavour: str) -> Record | None:
    """The record of this machine's engine for this bundle, if the record and the engine are unchanged."""
    path = built / _engine_name(flavour, environment)
    if not path.with_suffix(".json").exists():
        return None
    _check_trusted(built)
    try:
        record = serde.decode(Record, serde.loads(files.read(path.with_suffix(".json"), 1 << 20)))
        files.verify_file(built / path.name, record.file.size, record.file.sha256)
    except (DeployError, serde.Malformed):
        return None
    graphs = {file.sha256 for file in manifest.files}
    expected = (manifest_digest(folder), environment.gpu, environment.cuda)
    same = (record.digest, record.gpu, record.cuda) == expected
    return record if same and record.graph in graphs and record.file.path == path.name else None


def _candidate(built: Path, record: Record) -> Candidate:
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


def _delete(built: Path, record: Record) -> None:
    for path in (Path(record.file.path).with_suffix(".json"), Path(record.file.path)):
        (built / path).unlink(missing_ok=True)
