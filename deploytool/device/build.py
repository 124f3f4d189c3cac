"""Builds an engine on the device, checks it with the golden cases, and keeps it beside the bundle."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploytool import serde
from deploytool.backends import tensorrt_config
from deploytool.benchmark.ratio import Ratio
from deploytool.builder_settings import UNSET, BuilderSettings
from deploytool.bundle.int8 import ENGINE_FORMS
from deploytool.bundle.manifest import File, Manifest, Role, describe_file, engine_recipe, manifest_digest
from deploytool.device import probe
from deploytool.device.candidates import Candidate, Tier, engine_answers, side_files, unavailable
from deploytool.device.environment import Environment
from deploytool.device.probe import Limits, Prober, Racer
from deploytool.device.worker import Request, Trial
from deploytool.errors import BadInput, DeployError, MissingBackend, ParityFailed, StageFailed
from deploytool.host import disk, files, locks, owner, workers
from deploytool.spec import ADDED, Precision
from deploytool.targets import FLAVOURS, TENSORRT_RTX, precision_problem

_MAKING = ".making-"
_BUILD_LIMITS = Limits(
    seconds=4 * 3600.0, max_file_bytes=workers.MAX_FILE_BYTES
)  # TensorRT times every kernel it knows


@dataclass(frozen=True)
class Record:
    """An engine built here: from which bundle and graph, by which TensorRT, for which GPU, and its trial.

    `trial` is None until the engine has been run. `gain` is the speed of one in 8 bits over the FP16 engine, timed in
    turn; None if that was not measured. `settings` are those of the build.
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
    gain: Ratio | None = field(default=None, metadata=ADDED)
    settings: BuilderSettings = field(default=UNSET, metadata=ADDED)


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


def built_candidates(folder: Path, manifest: Manifest, environment: Environment, built: Path) -> tuple[Candidate, ...]:
    """The engines that were built and checked here, as candidates; an unavailable one with the reason if there is none.

    Engines in 8 bits that were measured to be faster come first, the fastest of them before the others.
    """
    try:
        flavour = select_flavour(environment)
        records = [
            _read(built, folder, manifest, environment, flavour, each) for each in (*ENGINE_FORMS, Precision.FP16)
        ]
    except DeployError as error:
        return (unavailable(Tier.BUILT, str(error)),)
    checked = [record for record in records if record is not None and record.trial is not None]
    usable = [record for record in checked if record.precision not in ENGINE_FORMS or is_faster(record)]
    usable.sort(key=lambda record: -record.gain.value if record.gain else 0.0)
    if not usable:
        return (unavailable(Tier.BUILT, "none was built here yet: `deploytool build` builds one"),)
    return tuple(_candidate(built, record, manifest) for record in usable)


def is_faster(record: Record) -> bool:
    """Whether an engine in 8 bits is significantly faster than the FP16 engine."""
    return record.gain is not None and record.gain.low > 1


def in_eight_bits(manifest: Manifest, environment: Environment) -> tuple[Precision, ...]:
    """The precisions in 8 bits that the GPU here computes in, and for which the bundle has a graph for engines."""
    forms, capability = {each.form for each in manifest.int8}, environment.capability
    able = [precision for precision, form in ENGINE_FORMS.items() if form in forms]
    return tuple(precision for precision in able if precision_problem(capability, precision) is None)


def build_narrow(
    folder: Path,
    manifest: Manifest,
    environment: Environment,
    built: Path,
    half: Record,
    prober: Prober,
    racer: Racer,
    watch: Callable[[int, int], None],
    precision: Precision,
) -> Record:
    """The engine in 8 bits for this machine, checked, with its gain over the FP16 engine `half` of the same settings.

    Raises what `build` raises.
    """
    record = build(folder, manifest, environment, built, prober, watch, half.settings, precision)
    if record.gain is None:
        race = racer(_candidate(built, half, manifest), _candidate(built, record, manifest))
        record = replace(record, gain=race.speedup)
        _write(built, record)
    return record


def build(
    folder: Path,
    manifest: Manifest,
    environment: Environment,
    built: Path,
    prober: Prober,
    watch: Callable[[int, int], None],
    settings: BuilderSettings = UNSET,
    precision: Precision = Precision.FP16,
) -> Record:
    """The engine for this machine, built unless it exists, and checked.

    An engine that an earlier call built and did not check is only checked. `watch` takes the steps done and in total,
    `precision` is FP16 or one of 8 bits, for which the bundle needs a graph. `settings` go before those of the bundle's
    recipe; an engine of others than are stated is built again.
    Raises MissingBackend where nothing can build an engine, StageFailed if the engine cannot be built or run, and
    ParityFailed if its outputs are wrong.
    """
    flavour = select_flavour(environment)
    with _exclusive(built):
        record = _read(built, folder, manifest, environment, flavour, precision)
        if record is None or settings.over(record.settings) != record.settings:
            record = _make(folder, manifest, environment, built, flavour, watch, settings, precision)
        return record if record.trial else _check(built, record, manifest, prober)


def _check(built: Path, record: Record, manifest: Manifest, prober: Prober) -> Record:
    """The record with its trial; an engine that fails it is deleted."""
    result = prober(_candidate(built, record, manifest))
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
    stated: BuilderSettings,
    precision: Precision,
) -> Record:
    """Builds the engine in a child process, and publishes it with a record that has no trial yet."""
    recipe = engine_recipe(folder, manifest)
    settings = replace(stated.over(recipe.settings), stripped=False)  # the engine stays beside its graph
    path = recipe.graph
    if precision in ENGINE_FORMS:
        path = next(each.path for each in manifest.int8 if each.form is ENGINE_FORMS[precision])
    graph = next(graph for graph in manifest.graphs if graph.path == path)
    source = next(file for file in manifest.files if file.path == graph.path)
    version, capability = environment.version(flavour), environment.capability
    candidate = Candidate(
        *(Tier.BUILT, str(folder / source.path), source.size, source.sha256),
        *("onnx", "cuda", flavour),
        precision=graph.precision,
        io=graph.io,
        weights=side_files(folder, manifest, source),
    )
    name = _engine_name(flavour, environment, precision)
    size = source.size + sum(side.size for side in candidate.weights)
    disk.check(built, 2 * size, name)  # an engine is about as large as its graph, and is copied once
    with tempfile.TemporaryDirectory(prefix=f"{_MAKING}{owner.name()}-", dir=built) as temporary:
        engine = Path(temporary, name)
        capabilities = () if FLAVOURS[flavour].needs_gpu else (capability,)
        request = Request("build", str(folder), manifest, candidate, "", out=str(engine), capabilities=capabilities)
        cache = (built / name).with_suffix(tensorrt_config.CACHE_SUFFIX)
        request = replace(request, settings=settings, timing_cache=str(cache))
        probe.run_worker(request, limits=_BUILD_LIMITS, on_line=lambda line: _report_progress(line, watch))
        file = describe_file(Path(temporary), name, Role.ENGINE)
        copy = engine.with_suffix(".whole")
        files.verify_file(engine, file.size, file.sha256, copy)  # the copy is flushed to the disk
        copy.replace(built / name)
        if (new := engine.with_suffix(cache.suffix)).exists():
            files.publish(cache, new.read_bytes())
    record = Record(
        *(manifest_digest(folder), source.sha256, flavour, version, environment.gpu, capability, environment.cuda),
        *(graph.precision, graph.io, file, None),
        settings=settings,
    )
    _write(built, record)
    return record


def _engine_name(flavour: str, environment: Environment, precision: Precision) -> str:
    prefix = "" if precision is Precision.FP16 else f"{precision}_"
    return f"{prefix}{flavour}_{environment.version(flavour)}_{environment.capability}.plan"


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


def _read(
    built: Path, folder: Path, manifest: Manifest, environment: Environment, flavour: str, precision: Precision
) -> Record | None:
    """The record of this machine's engine for this bundle, if the record and the engine are unchanged."""
    path = built / _engine_name(flavour, environment, precision)
    if not path.with_suffix(".json").exists():
        return None
    _check_trusted(built)
    try:
        record = serde.decode(Record, serde.loads(files.read(path.with_suffix(".json"), 1 << 20)))
        files.verify_file(built / path.name, record.file.size, record.file.sha256)
    except (DeployError, serde.Malformed):
        return None
    graphs = {file.sha256 for file in manifest.files}
    expected = (manifest_digest(folder), environment.gpu, environment.cuda, precision)
    same = (record.digest, record.gpu, record.cuda, record.precision) == expected
    return record if same and record.graph in graphs and record.file.path == path.name else None


def _candidate(built: Path, record: Record, manifest: Manifest) -> Candidate:
    path = str(built / record.file.path)
    return Candidate(
        *(Tier.BUILT, path, record.file.size, record.file.sha256),
        *("tensorrt", "cuda", record.flavour),
        precision=record.precision,
        io=record.io,
        answers=engine_answers(manifest).get(record.precision, ""),
    )


def _write(built: Path, record: Record) -> None:
    path = built / Path(record.file.path).with_suffix(".json")
    files.publish(path, serde.text(record).encode())


def _delete(built: Path, record: Record) -> None:
    for path in (Path(record.file.path).with_suffix(".json"), Path(record.file.path)):
        (built / path).unlink(missing_ok=True)
