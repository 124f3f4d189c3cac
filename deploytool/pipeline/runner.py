"""Runs the stages of a recipe in order and reuses any stage whose receipt matches its inputs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.host import disk, machine, memory, memory_estimate, process, side_files, workers
from deploytool.loading import code_files, factory, source_model, weights_file
from deploytool.loading.stage_inputs import StageInputs
from deploytool.pipeline import disk_estimate
from deploytool.results import receipt as receipts
from deploytool.results.artifact import Artifact, Kind, Notes
from deploytool.results.receipt import Receipt
from deploytool.run_folder import publish, staging
from deploytool.run_folder.staging import Staging
from deploytool.spec import Job, Options, SourceKind, Stage
from deploytool.stages import registry
from deploytool.stages.registry import COMMON_PACKAGES, STAGES

_PACKAGE = Path(__file__).parents[1]
_WEIGHTS = Kind.WEIGHTS.value
FIRST = Stage.LOAD  # runs the model's own code for the first time


def check(recipe: Sequence[Stage]) -> None:
    """Raises BadInput for a recipe in which a stage needs a kind of artifact that no earlier stage makes."""
    kinds: set[Kind] = set()
    for stage in recipe:
        missing = [kind.name.lower() for kind in STAGES[stage].requires if kind not in kinds]
        if missing:
            problem = f"stage {stage} needs {' and '.join(missing)}, which no earlier stage makes"
            raise BadInput(problem, "add the missing stage to the recipe")
        kinds.add(STAGES[stage].produces)


def run(job: Job, recipe: Sequence[Stage], home: Path) -> Iterator[Artifact]:
    """Yields each artifact when it is finished, in the order of the recipe, and publishes the run in `home` at the end.

    `home` holds one directory for each stage. Until the end, an earlier run in `home` stays as it is. A run that failed
    or was interrupted continues from its finished stages. Raises BadInput if `home` cannot be written or holds files of
    another program, and any error that a stage raises.
    """
    check(recipe)
    with staging.open_run(home) as staged:
        yield from iterate(job, recipe, staged)
        staged.publish()


def iterate(job: Job, recipe: Sequence[Stage], staged: Staging) -> Iterator[Artifact]:
    """Yields each artifact when it is finished, with the path that it has once the run is published.

    As long as every requested artifact can be reused, the run stays in place and no staging folder is made. After the
    first stage, `job.model` is the definition that this stage settled.
    """
    _check_ownership(staged.home, recipe)
    artifacts: list[Artifact] = []
    unchecked = True
    try:
        for index, stage in enumerate(recipe):
            key = _key(stage, job, _inputs(stage, artifacts))
            artifact = _reusable(stage, key, job, staged)
            if artifact is None or _directory(artifact).parent != staged.at:
                artifacts = _move_to_staging(artifacts, staged)
                artifact = artifact and _take(artifact, staged)
            if artifact is None:
                unchecked = unchecked and not _check_metric(job, artifacts)
                _check_resources(recipe[index:], job, artifacts, staged.home)
                _start_workers(recipe[index:])
                artifact = _make(stage, job, staged, key, artifacts)
            artifacts.append(artifact)
            if stage == FIRST:
                job = replace(job, model=source_model.read(artifact.path).definition)
            yield replace(artifact, path=staged.home / stage / artifact.kind.value)
        _carry_over(staged)
    finally:
        for stage in recipe:
            if worker := STAGES[stage].worker:
                process.stop_ahead(workers.command(worker))


def _check_metric(job: Job, artifacts: Sequence[Artifact]) -> bool:
    """Checks what the metric needs once there is golden data, and returns whether there is; raises BadInput."""
    from deploytool.pipeline import metric_checks  # it imports Pillow, which most commands need not wait for

    sample = next((artifact for artifact in artifacts if artifact.kind is Kind.GOLDEN), None)
    if sample is not None:
        metric_checks.check(job, sample)
    return sample is not None


def extend(stage: Stage, options: Options, home: Path) -> Artifact:
    """Runs one more stage on a finished run and returns its artifact; only the options that the stage reads matter.

    Raises BadInput if the run lacks an artifact that the stage needs, or if a file has changed since its stage made it.
    """
    if not stage_directories(home):
        raise BadInput(f"{home} holds no finished run", "`deploytool export` makes one")
    check_source(home, needed=False)
    with staging.open_run(home) as staged:
        artifact = extend_staged(stage, options, staged)
        staged.publish()
    return artifact


def extend_staged(stage: Stage, options: Options, staged: Staging) -> Artifact:
    """Like `extend`, for a run that is not published yet; the path is the one after publication."""
    kinds = {receipt.kind for _, receipt in stage_directories(staged.at) if receipt.made_by != stage}
    missing = [kind.name.lower() for kind in STAGES[stage].requires if kind not in kinds]
    if missing:
        problem = f"{staged.home} holds no finished run: it lacks the {missing[0]}"
        raise BadInput(problem, "`deploytool export` makes one")
    artifacts = _verified(staged.at, staged.home, without=stage)
    inputs = _inputs(stage, artifacts)
    job = Job(inputs.source().definition, options)
    key = _key(stage, job, inputs)
    artifact = _matching(staged.at / stage, key, job)
    if artifact is None:
        _check_resources((stage,), job, artifacts, staged.home)
        artifacts = _move_to_staging(artifacts, staged)
        artifact = _make(stage, job, staged, key, artifacts)
    return replace(artifact, path=staged.home / stage / artifact.kind.value)


def artifacts(home: Path) -> StageInputs:
    """All artifacts of a finished run.

    Raises BadInput if there is no run, or if a file has changed since its stage made it.
    """
    verified = _verified(home, home)
    if not verified:
        raise BadInput(f"{home} holds no finished run", "`deploytool export` makes one")
    return StageInputs(tuple(verified))


def _verified(folder: Path, home: Path, without: Stage | None = None) -> list[Artifact]:
    """The artifacts of the run in `folder`, checked against their receipts; an error names `home`."""
    directories = [(path, receipt) for path, receipt in stage_directories(folder) if receipt.made_by != without]
    for path, receipt in directories:
        if not receipts.matches(path, receipt):
            problem = f"{home / path.name} has changed since its stage made it"
            raise BadInput(problem, "export again: only that stage is repeated")
    return [artifact_of(path, receipt, fresh=False) for path, receipt in directories]


def stage_directories(home: Path) -> list[tuple[Path, Receipt]]:
    """The stage directories of a run that have a receipt, with it, in the order of the stages."""
    publish.recover(home)
    directories = [(home / stage, receipts.read(home / stage)) for stage in STAGES]
    return [(path, receipt) for path, receipt in directories if receipt is not None]


def _check_resources(recipe: Sequence[Stage], job: Job, artifacts: Sequence[Artifact], home: Path) -> None:
    """Raises ResourceExhausted for stages that need more disk space or memory than is free, as far as is known yet."""
    weights = next((artifact.path.stat().st_size for artifact in artifacts if artifact.kind is Kind.WEIGHTS), 0)
    disk_estimate.check(recipe, job.model, job.options, home, weights)
    if weights and not any(artifact.fresh for artifact in artifacts):
        memory_estimate.check(weights, job)


def _start_workers(recipe: Sequence[Stage]) -> None:
    """Starts the workers of all stages but the next one, so that they import their libraries in the meantime."""
    for stage in recipe[1:]:
        if worker := STAGES[stage].worker:
            process.start_ahead(workers.command(worker), workers.MEMORY_GIB, workers.MAX_FILE_BYTES)


def check_source(home: Path, *, needed: bool = True) -> None:
    """Raises BadInput, which names the file, if the run's weights or the code of its model have changed since.

    Unless the code is `needed`, it may be absent: the run may have been made on another machine.
    """
    directory = home / FIRST
    receipt = receipts.read(directory)
    if receipt is None:
        return
    if not receipts.matches(directory, receipt):
        raise BadInput(f"{directory} has changed since its stage made it", "export again: only that stage is repeated")
    reference, known = weights_file.definition(directory / _WEIGHTS).factory, _sources(receipt)
    try:
        project = factory.project_folder(reference)
    except BadInput:
        if needed:
            raise
        return
    for name, state in code_files.current_digests(known, project).items():
        absent = state == code_files.ABSENT
        if state != known[name] and (needed or not absent):
            change = "no longer exists" if absent else "has changed since"
            problem = f"{name.removeprefix('./')} {change}, and {home} was made from it"
            raise BadInput(problem, "export it again")


def sources(home: Path) -> code_files.Sources:
    """The digests of the files that the code of the run's model read while it built the model; none without a run."""
    receipt = receipts.read(home / FIRST)
    return {} if receipt is None else _sources(receipt)


def _sources(receipt: Receipt) -> code_files.Sources:
    """The files that the model's own code read, as its receipt lists them."""
    try:
        return serde.decode(dict[str, str], receipt.notes["sources"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _key(stage: Stage, job: Job, inputs: StageInputs) -> str:
    """The digest of everything that the stage's result depends on, as far as it is known before the stage runs."""
    source = factory.kind(job.model.factory)
    contract = registry.contract(stage, source)
    return serde.digest(
        stage,
        _stage_source(stage, source),
        [job.model] if contract.uses_model else [],
        _model_source(job.model.factory) if stage == FIRST else "",
        {name: getattr(job.options, name) for name in contract.options},
        {artifact.made_by: [artifact.key, artifact.digest] for artifact in inputs.artifacts},
        _versions(stage, source),
        [*machine.gpus(), machine.cpu()] if contract.uses_device else [],
    )


def _versions(stage: Stage, source: SourceKind) -> dict[str, str]:
    libraries = registry.contract(stage, source).libraries
    return {name: version for name in libraries if (version := machine.version(name))}


def _stage_source(stage: Stage, source: SourceKind) -> str:
    """The digest of the stage's own file and of every package that it declares."""
    own, packages = registry.file_name(stage, source), registry.contract(stage, source).packages
    names = (f"stages/{own}.py", *COMMON_PACKAGES, *packages)
    return serde.digest([_source_digest(name) for name in names])


@cache  # most packages are declared by several stages
def _source_digest(name: str) -> str:
    """The digest of a module of deploytool, or of all modules of a package."""
    path = _PACKAGE / name
    modules = [path] if path.is_file() else sorted(path.rglob("*.py"))
    return serde.digest([serde.file_digest(module) for module in modules])


def _model_source(reference: str) -> str:
    return serde.digest([serde.file_digest(path) for path in factory.source_files(reference)])


def _matching(directory: Path, key: str, job: Job) -> Artifact | None:
    """The artifact in a stage directory, if its receipt has this key and its files are unchanged."""
    receipt = receipts.read(directory)
    if receipt is None or not receipts.matches(directory, receipt):
        return None
    if receipt.made_by == FIRST:
        if _has_another_factory(directory, job.model.factory):
            return None
        digests = code_files.current_digests(_sources(receipt), factory.project_folder(job.model.factory))
        key = _first_key(key, digests, receipt.files)
    return artifact_of(directory, receipt, fresh=False) if receipt.key == key else None


def _has_another_factory(directory: Path, reference: str) -> bool:
    """Whether the weights file names another factory, whatever its receipt says. Later stages would call it."""
    try:
        return weights_file.definition(directory / _WEIGHTS).factory != reference
    except BadInput:
        return False  # a file without a definition makes no stage call anything


def _first_key(key: str, sources: code_files.Sources, files: Mapping[str, str]) -> str:
    """The key of the first stage: it also covers the files that the model's code read, and the weights."""
    return serde.digest(key, sources, files.get(_WEIGHTS))


def artifact_of(directory: Path, receipt: Receipt, *, fresh: bool) -> Artifact:
    """The artifact of a stage directory; its digest is empty if the stage made no file.

    The digest of a graph with a side file covers both.
    """
    path, digest = directory / receipt.kind.value, receipt.files.get(receipt.kind.value, "")
    if side := receipt.files.get(receipt.kind.value + side_files.SUFFIX):
        digest = serde.digest(digest, side)
    return Artifact(receipt.kind, path, digest, receipt.key, receipt.made_by, receipt.notes, receipt.seconds, fresh)


def _inputs(stage: Stage, artifacts: Sequence[Artifact]) -> StageInputs:
    wanted = (*STAGES[stage].requires, *STAGES[stage].optional)
    return StageInputs(tuple(artifact for artifact in artifacts if artifact.kind in wanted))


def _directory(artifact: Artifact) -> Path:
    return artifact.path.parents[len(Path(artifact.kind.value).parts) - 1]


def _reusable(stage: Stage, key: str, job: Job, staged: Staging) -> Artifact | None:
    """The artifact with this key that this run or an unfinished one left, if there is one."""
    candidates = (_matching(directory, key, job) for directory in staged.sources(stage))
    return next((artifact for artifact in candidates if artifact), None)


def _move_to_staging(artifacts: Sequence[Artifact], staged: Staging) -> list[Artifact]:
    """The artifacts in the staging folder, which is made if there is none: from here on the run is made there."""
    staged.begin()
    moved = [
        artifact if _directory(artifact).parent == staged.at else _take(artifact, staged) for artifact in artifacts
    ]
    if not all(moved):
        raise BadInput(f"another deploytool process changed {staged.home} meanwhile", "run the same command again")
    return [artifact for artifact in moved if artifact]


def _take(artifact: Artifact, staged: Staging) -> Artifact | None:
    """The same artifact in the staging folder; None if another process removed it at the same moment."""
    try:
        directory = staged.link_stage(_directory(artifact))
    except OSError:
        return None
    receipt = receipts.read(directory)
    return artifact_of(directory, receipt, fresh=False) if receipt and receipt.key == artifact.key else None


def _make(stage: Stage, job: Job, staged: Staging, key: str, artifacts: Sequence[Artifact]) -> Artifact:
    """Runs the stage in a hidden directory, writes the receipt, and only then renames the directory into place."""
    kind, inputs = STAGES[stage].produces, _inputs(stage, artifacts)
    with staged.stage_directory(stage) as directory, disk.writing(directory, named=staged.home / stage):
        start = time.perf_counter()
        job = replace(job, earlier=tuple(map(str, staged.sources(stage))))
        notes = _run_stage(stage, job, directory / kind.value, inputs)
        memory.release_unused()
        seconds = round(time.perf_counter() - start, 3)
        parents = {artifact.made_by.value: artifact.key for artifact in inputs.artifacts}
        files = receipts.digests(directory)
        if stage == FIRST:
            key = _first_key(key, serde.decode(dict[str, str], notes["sources"]), files)
        weights = next(
            (artifact.digest for artifact in artifacts if artifact.kind is Kind.WEIGHTS), files.get(_WEIGHTS)
        )
        versions = _versions(stage, factory.kind(job.model.factory))
        receipt = Receipt(kind, stage, key, parents, weights, files, versions, seconds, notes)
        receipts.write(directory, receipt)
    return artifact_of(staged.at / stage, receipt, fresh=True)


def _run_stage(stage: Stage, job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Runs a stage and returns its notes; those of the first stage list the files that the model's code read."""
    reference = job.model.factory
    source = factory.kind(reference)
    module = registry.import_stage(registry.file_name(stage, source))
    if stage != FIRST:
        return module.make(job, out, inputs)
    if source is SourceKind.GRAPH:
        notes = module.make(job, out, inputs)
        given = factory.source_files(reference)
        return {**notes, "sources": code_files.sources_of_files(given, factory.project_folder(reference))}
    if source is SourceKind.ZOO:
        notes = module.make(job, out, inputs)
        return {**notes, "sources": code_files.sources_of_code(factory.module_name(reference), factory.zoo_folder())}
    with code_files.record_reads() as record:
        notes = module.make(job, out, inputs)
    ignored = (out.parent, *([Path(job.options.weights.path)] if job.options.weights else []))
    files = code_files.sources(record, factory.module_name(reference), factory.project_folder(reference), ignored)
    own = notes.get("remarks", ())
    remarks = [*(own if isinstance(own, (list, tuple)) else [own]), *code_files.remarks(record)]
    return {**notes, "sources": files, **({"remarks": remarks} if remarks else {})}


def _carry_over(staged: Staging) -> None:
    """Takes stages that this run does not repeat into the staging folder, if their inputs are unchanged."""
    if staged.at == staged.home:
        return
    for directory, receipt in stage_directories(staged.home):
        if not (staged.at / directory.name).exists():
            parents = {stage: receipts.read(staged.at / stage) for stage in receipt.parents}
            if all((parent := parents[stage]) and parent.key == key for stage, key in receipt.parents.items()):
                with suppress(OSError):
                    staged.link_stage(directory)


def _check_ownership(home: Path, recipe: Sequence[Stage]) -> None:
    """Raises BadInput if a folder without a receipt is in the place of a stage directory: it is not deploytool's."""
    for stage in recipe:
        directory = home / stage
        if directory.exists() and not (directory / receipts.FILE).is_file():
            problem = f"{directory} was not made by deploytool"
            raise BadInput(problem, "move it away, or choose another folder with --out")


def sweep(home: Path) -> None:
    """Removes what this process left unfinished in a run's folder, and what processes that have ended left there."""
    staging.sweep(home)
