"""The corridor: takes a job through the stages of a recipe, and skips whatever a receipt proves is already there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from deploytool import serde, stages
from deploytool.errors import BadInput
from deploytool.host import disk, machine, memory_estimate, process, workers
from deploytool.loading import code_files, factory, source_model, weights_file
from deploytool.loading.stage_inputs import StageInputs
from deploytool.pipeline import disk_estimate
from deploytool.results import receipt
from deploytool.results.artifact import Artifact, Kind, Notes
from deploytool.results.receipt import Receipt
from deploytool.run_folder import publish, staging
from deploytool.run_folder.staging import Staging
from deploytool.spec import Job, Options, Stage
from deploytool.stages import EVERYWHERE, STAGES

_PACKAGE = Path(__file__).parents[1]
_WEIGHTS = Kind.WEIGHTS.value
BEGINNING = Stage.LOAD  # the stage that runs the model's own code for the first time


def check(recipe: Sequence[Stage]) -> None:
    """Refuses, before the first minute is spent, a recipe in which a stage takes what nothing before it makes."""
    made: set[Kind] = set()
    for verb in recipe:
        missing = [kind.name.lower() for kind in STAGES[verb].takes if kind not in made]
        if missing:
            raise BadInput(
                f"{verb} takes {' and '.join(missing)}, and no stage before it makes that", "mend the recipe"
            )
        made.add(STAGES[verb].makes)


def run(job: Job, recipe: Sequence[Stage], home: Path) -> Iterator[Artifact]:
    """Yields each artifact as it comes to be, in the order of the recipe; `home` holds one room a stage in the end.

    Until then the run that was in `home` stays as it is; one that failed or was stopped goes on from its finished
    rooms the next time. Raises BadInput if `home` cannot be written or holds something else, and whatever a stage
    raises.
    """
    check(recipe)
    with staging.open_run(home) as staged:
        yield from iterate(job, recipe, staged)
        staged.publish()


def iterate(job: Job, recipe: Sequence[Stage], staged: Staging) -> Iterator[Artifact]:
    """Yields each artifact as it comes to be in the staging folder, by the path that it will have in the end.

    As long as all that is asked for is there, the run stays where it is, and no staging folder is begun.
    """
    _check_free(staged.home, recipe)
    artifacts: list[Artifact] = []
    try:
        for place, verb in enumerate(recipe):
            key = _key(verb, job, _given(verb, artifacts))
            kept = _kept(verb, key, job, staged)
            if kept is None or _room(kept).parent != staged.at:
                artifacts = _moved(artifacts, staged)
                kept = kept and _taken(kept, staged)
            if kept is None:
                _check_room(recipe[place:], job, artifacts, staged.home)
                _begin(recipe[place:])
                kept = _made(verb, job, staged, _given(verb, artifacts), key, artifacts)
            artifacts.append(kept)
            if verb == BEGINNING:
                job = replace(job, model=source_model.read(kept.path).definition)
            yield replace(kept, path=staged.home / verb / kept.kind.value)
        _carry(staged)
    finally:
        for verb in recipe:
            if program := STAGES[verb].program:
                process.stop_ahead(workers.command(program))


def extend(verb: Stage, options: Options, home: Path) -> Artifact:
    """The artifact of one more stage on what a finished run left; of the options, those that it reads matter.

    Raises BadInput if the run lacks what the stage takes, or if a file is not as its stage made it.
    """
    if not stage_directories(home):
        raise BadInput(f"{home} holds no finished run", "`deploytool export` makes one")
    check_source(home, needed=False)
    with staging.open_run(home) as staged:
        made = extend_staged(verb, options, staged)
        staged.publish()
    return made


def extend_staged(verb: Stage, options: Options, staged: Staging) -> Artifact:
    """The same for a run that is not published yet; the path is the one that the artifact will have then."""
    there = {sealed.kind for _, sealed in stage_directories(staged.at) if sealed.made_by != verb}
    missing = [kind.name.lower() for kind in STAGES[verb].takes if kind not in there]
    if missing:
        problem = f"{staged.home} holds no finished run: it lacks the {missing[0]}"
        raise BadInput(problem, "`deploytool export` makes one")
    artifacts = _proved(staged.at, staged.home, but=verb)
    given = _given(verb, artifacts)
    job = Job(given.source().definition, options)
    key = _key(verb, job, given)
    made = _found(staged.at / verb, key, job)
    if made is None:
        _check_room((verb,), job, artifacts, staged.home)
        artifacts = _moved(artifacts, staged)
        made = _made(verb, job, staged, _given(verb, artifacts), key, artifacts)
    return replace(made, path=staged.home / verb / made.kind.value)


def artifacts(home: Path) -> StageInputs:
    """All that a finished run left, as a later stage would be handed it.

    Raises BadInput if there is no run, or if a file is not as its stage made it.
    """
    found = _proved(home, home)
    if not found:
        raise BadInput(f"{home} holds no finished run", "`deploytool export` makes one")
    return StageInputs(tuple(found))


def _proved(place: Path, home: Path, but: Stage | None = None) -> list[Artifact]:
    """Every artifact of the run in `place` but one; raises BadInput, which names `home`, if one is not as made."""
    found = [(room, sealed) for room, sealed in stage_directories(place) if sealed.made_by != but]
    for room, sealed in found:
        if not receipt.proves(room, sealed):
            problem = f"{home / room.name} is not as its stage made it"
            raise BadInput(problem, "export again: only that stage is repeated")
    return [_artifact(room, sealed, fresh=False) for room, sealed in found]


def stage_directories(home: Path) -> list[tuple[Path, Receipt]]:
    """Every room of a run that a receipt digests, in the order of the stages."""
    publish.recover(home)
    found = [(home / verb, receipt.read(home / verb)) for verb in STAGES]
    return [(room, sealed) for room, sealed in found if sealed is not None]


def _check_room(recipe: Sequence[Stage], job: Job, artifacts: Sequence[Artifact], home: Path) -> None:
    """Refuses, before they work, stages that need more than the machine has, as far as what is there already tells."""
    weights = next((made.path.stat().st_size for made in artifacts if made.kind is Kind.WEIGHTS), 0)
    disk_estimate.check(recipe, job.model, job.options, home, weights)
    if weights and not any(made.fresh for made in artifacts):
        memory_estimate.check(weights, job)


def _begin(recipe: Sequence[Stage]) -> None:
    """Has the children of these stages begin what takes them long, which is to import their libraries.

    Those of the stage that is next begin with it: nothing would be gained.
    """
    for verb in recipe[1:]:
        if program := STAGES[verb].program:
            process.start_ahead(workers.command(program), workers.GIBIBYTES, workers.LARGEST_FILE)


def check_source(home: Path, *, needed: bool = True) -> None:
    """Refuses a run whose weights or whose model's own code is no longer what it was made from.

    Raises BadInput, which names the file. Where the code is not `needed`, it may be on another machine.
    """
    room = home / BEGINNING
    sealed = receipt.read(room)
    if sealed is None:
        return
    if not receipt.proves(room, sealed):
        raise BadInput(f"{room} is not as its stage made it", "export again: only that stage is repeated")
    reference, known = weights_file.definition(room / _WEIGHTS).factory, _sources(sealed)
    try:
        project = factory.project_folder(reference)
    except BadInput:
        if needed:
            raise
        return
    for name, state in code_files.current_digests(known, project).items():
        if state != known[name] and (needed or state != code_files.ABSENT):
            said = "is gone, and" if state == code_files.ABSENT else "is no longer what"
            said = f"{name.removeprefix('./')} {said} {home} was made from"
            raise BadInput(said + (" it" if state == code_files.ABSENT else ""), "export it again")


def sources(home: Path) -> code_files.Sources:
    """What the code of a run's model read while it made the model, by name and digest; nothing without a run."""
    sealed = receipt.read(home / BEGINNING)
    return {} if sealed is None else _sources(sealed)


def _sources(sealed: Receipt) -> code_files.Sources:
    """What the model's own code read, by its receipt."""
    try:
        return serde.decode(dict[str, str], sealed.notes["sources"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _key(verb: Stage, job: Job, given: StageInputs) -> str:
    """One digest of everything the stage's result depends on, as far as it is known before the stage works."""
    contract = STAGES[verb]
    return serde.digest(
        verb,
        _stage_source(verb),
        [job.model] if contract.model else [],
        _model_source(job.model.factory) if verb == BEGINNING else "",
        {name: getattr(job.options, name) for name in contract.reads},
        {artifact.made_by: [artifact.key, artifact.digest] for artifact in given.artifacts},
        _versions(verb),
        [*machine.gpus(), machine.cpu()] if contract.here else [],
    )


def _versions(verb: Stage) -> dict[str, str]:
    return {name: found for name in STAGES[verb].libraries if (found := machine.version(name))}


@cache
def _stage_source(verb: Stage) -> str:
    """The digest of the stage's own file and of every package that it declares."""
    files = [_PACKAGE / "stages" / f"{verb}.py"]
    for name in (*EVERYWHERE, *STAGES[verb].packages):
        path = _PACKAGE / name
        files += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return serde.digest([serde.file_digest(path) for path in files])


def _model_source(reference: str) -> str:
    return serde.digest([serde.file_digest(path) for path in factory.source_files(reference)])


def _found(room: Path, key: str, job: Job) -> Artifact | None:
    """What an earlier run left in the room, if its receipt bears this key and its files are untouched."""
    sealed = receipt.read(room)
    if sealed is None or not receipt.proves(room, sealed):
        return None
    if sealed.made_by == BEGINNING:
        if _names_other_code(room, job.model.factory):
            return None
        key = _begun_with(
            key, code_files.current_digests(_sources(sealed), factory.project_folder(job.model.factory)), sealed.files
        )
    return _artifact(room, sealed, fresh=False) if sealed.key == key else None


def _names_other_code(room: Path, reference: str) -> bool:
    """Whether the weights there are of another factory, whatever their receipt says: later stages would call it."""
    try:
        return weights_file.definition(room / _WEIGHTS).factory != reference
    except BadInput:
        return False  # what names none has none called


def _begun_with(key: str, sources: code_files.Sources, files: Mapping[str, str]) -> str:
    """The key of the stage that all begins with: what the model's code read, and the weights that came of it."""
    return serde.digest(key, sources, files.get(_WEIGHTS))


def _artifact(room: Path, sealed: Receipt, *, fresh: bool) -> Artifact:
    path, digest = room / sealed.kind.value, sealed.files.get(sealed.kind.value, "")  # a stage may leave its file out
    return Artifact(sealed.kind, path, digest, sealed.key, sealed.made_by, sealed.notes, sealed.seconds, fresh)


def _given(verb: Stage, artifacts: Sequence[Artifact]) -> StageInputs:
    wanted = (*STAGES[verb].takes, *STAGES[verb].welcomes)
    return StageInputs(tuple(artifact for artifact in artifacts if artifact.kind in wanted))


def _room(made: Artifact) -> Path:
    return made.path.parents[len(Path(made.kind.value).parts) - 1]


def _kept(verb: Stage, key: str, job: Job, staged: Staging) -> Artifact | None:
    """What this run or an unfinished one left of this key."""
    return next((found for room in staged.sources(verb) if (found := _found(room, key, job))), None)


def _moved(artifacts: Sequence[Artifact], staged: Staging) -> list[Artifact]:
    """The artifacts as they lie in the staging folder, which from here on is where the run grows."""
    staged.begin()
    moved = [made if _room(made).parent == staged.at else _taken(made, staged) for made in artifacts]
    if not all(moved):
        raise BadInput(f"another deploytool changed {staged.home} meanwhile", "run the same command again")
    return [made for made in moved if made]


def _taken(kept: Artifact, staged: Staging) -> Artifact | None:
    """The same artifact in the staging folder; None if another command took it away this very moment."""
    try:
        room = staged.link_stage(_room(kept))
    except OSError:
        return None
    sealed = receipt.read(room)
    return _artifact(room, sealed, fresh=False) if sealed and sealed.key == kept.key else None


def _made(
    verb: Stage, job: Job, staged: Staging, given: StageInputs, key: str, artifacts: Sequence[Artifact]
) -> Artifact:
    """Makes the artifact in a room nobody sees, digests it, and only then puts the room in its place."""
    kind = STAGES[verb].makes
    with staged.stage_directory(verb) as bench, disk.writing(bench, named=staged.home / verb):
        begun = time.perf_counter()
        notes = _work(verb, job, bench / kind.value, given)
        seconds = round(time.perf_counter() - begun, 3)
        parents = {artifact.made_by.value: artifact.key for artifact in given.artifacts}
        files = receipt.digests(bench)
        if verb == BEGINNING:
            key = _begun_with(key, serde.decode(dict[str, str], notes["sources"]), files)
        begin = next((artifact.digest for artifact in artifacts if artifact.kind is Kind.WEIGHTS), files.get(_WEIGHTS))
        sealed = Receipt(kind, verb, key, parents, begin, files, _versions(verb), seconds, notes)
        receipt.write(bench, sealed)
    return _artifact(staged.at / verb, sealed, fresh=True)


def _work(verb: Stage, job: Job, out: Path, given: StageInputs) -> Notes:
    """Has the stage make its artifact; where that runs the model's own code first, its notes say what was read."""
    stage, reference = stages.import_stage(verb), job.model.factory
    if verb != BEGINNING:
        return stage.make(job, out, given)
    if factory.is_zoo(reference):
        notes = stage.make(job, out, given)
        return {**notes, "sources": code_files.sources_of_code(factory.module_name(reference), factory.zoo_folder())}
    with code_files.record_reads() as record:
        notes = stage.make(job, out, given)
    counted = (out.parent, *([Path(job.options.weights.path)] if job.options.weights else []))
    found = code_files.sources(record, factory.module_name(reference), factory.project_folder(reference), counted)
    said = notes.get("remarks", ())
    more = [*(said if isinstance(said, (list, tuple)) else [said]), *code_files.remarks(record)]
    return {**notes, "sources": found, **({"remarks": more} if more else {})}


def _carry(staged: Staging) -> None:
    """Has the staging folder hold too what was not asked for this time, where all that it was made from is the same."""
    if staged.at == staged.home:
        return
    for room, sealed in stage_directories(staged.home):
        if not (staged.at / room.name).exists():
            now = {verb: receipt.read(staged.at / verb) for verb in sealed.parents}
            if all((made := now[verb]) and made.key == key for verb, key in sealed.parents.items()):
                with suppress(OSError):
                    staged.link_stage(room)


def _check_free(home: Path, recipe: Sequence[Stage]) -> None:
    """Refuses a folder that holds somebody else's things where a room should be."""
    for verb in recipe:
        room = home / verb
        if room.exists() and not (room / receipt.FILE).is_file():
            raise BadInput(f"{room} was not made by deploytool", "move it away, or choose another folder with --out")


def sweep(home: Path) -> None:
    """Ends what this process makes in a run's folder, finished rooms aside, and takes away what the dead left there."""
    staging.sweep(home)
