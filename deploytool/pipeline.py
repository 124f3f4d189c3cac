"""The corridor: takes a job through the stages of a recipe, and skips whatever a receipt proves is already there."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from deploytool import child, factory, machine, plain, programs, receipt, stages, weights_file
from deploytool.artifact import Artifact, Given, Kind
from deploytool.errors import BadInput
from deploytool.receipt import Receipt
from deploytool.spec import Job, Options
from deploytool.stages import STAGES

_PACKAGE = Path(__file__).parent
_WEIGHTS = Kind.WEIGHTS.value
# what no stage's result depends on
_ABOVE = (
    *("cli", "device", "difference", "doctor", "shipping", "stages", "training", "tracing"),
    *("cost.py", "pipeline.py", "catalog.py", "targets.py", "only.py", "signing.py"),
    *("bench.py", "benching.py", "road.py", "wishes.py", "page"),
)


def check(recipe: Sequence[str]) -> None:
    """Refuses, before the first minute is spent, a recipe in which a stage takes what nothing before it makes."""
    made: set[Kind] = set()
    for verb in recipe:
        missing = [kind.name.lower() for kind in STAGES[verb].takes if kind not in made]
        if missing:
            raise BadInput(
                f"{verb} takes {' and '.join(missing)}, and no stage before it makes that", "mend the recipe"
            )
        made.add(STAGES[verb].makes)


def run(job: Job, recipe: Sequence[str], home: Path) -> Iterator[Artifact]:
    """Yields each artifact as it comes to be, in the order of the recipe; `home` holds one room a stage.

    Raises BadInput if `home` cannot be written or holds something else, and whatever a stage raises; a stage that
    fails leaves nothing behind.
    """
    check(recipe)
    _enter(home, recipe)
    shelf: list[Artifact] = []
    try:
        for place, verb in enumerate(recipe):
            contract = STAGES[verb]
            wanted = (*contract.takes, *contract.welcomes)
            given = Given(tuple(artifact for artifact in shelf if artifact.kind in wanted))
            key = _key(verb, job, given)
            kept = _found(home / verb, key)
            if kept is None:
                _begin(recipe[place:])
            shelf.append(kept or _made(verb, job, home, given, key, shelf))
            yield shelf[-1]
    finally:
        for verb in recipe:
            child.recall(programs.command(STAGES[verb].program))
        with suppress(OSError):
            home.rmdir()  # which only an empty folder allows


def extend(verb: str, options: Options, home: Path) -> Artifact:
    """The artifact of one more stage on what a finished run left; of the options, those that it reads matter.

    Raises BadInput if the run lacks what the stage takes, or if a file is not as its stage made it.
    """
    found = rooms(home)
    shelf = [_artifact(room, sealed, fresh=False) for room, sealed in found if sealed.made_by != verb]
    wanted = (*STAGES[verb].takes, *STAGES[verb].welcomes)
    missing = [kind.name.lower() for kind in STAGES[verb].takes if kind not in {made.kind for made in shelf}]
    if missing:
        raise BadInput(f"{home} holds no finished run: it lacks the {missing[0]}", "`deploytool export` makes one")
    for room, sealed in found:
        if sealed.made_by != verb and not receipt.proves(room, sealed):
            raise BadInput(f"{room} is not as its stage made it", "export again: only that stage is repeated")
    given = Given(tuple(artifact for artifact in shelf if artifact.kind in wanted))
    job = Job(weights_file.definition(given.latest(Kind.WEIGHTS).path), options)
    key = _key(verb, job, given)
    return _found(home / verb, key) or _made(verb, job, home, given, key, shelf)


def shelf(home: Path) -> Given:
    """All that a finished run left, as a later stage would be handed it.

    Raises BadInput if there is no run, or if a file is not as its stage made it.
    """
    found = rooms(home)
    if not found:
        raise BadInput(f"{home} holds no finished run", "`deploytool export` makes one")
    for room, sealed in found:
        if not receipt.proves(room, sealed):
            raise BadInput(f"{room} is not as its stage made it", "export again: only that stage is repeated")
    return Given(tuple(_artifact(room, sealed, fresh=False) for room, sealed in found))


def rooms(home: Path) -> list[tuple[Path, Receipt]]:
    """Every room of a run that a receipt seals, in the order of the stages."""
    found = [(home / verb, receipt.read(home / verb)) for verb in STAGES]
    return [(room, sealed) for room, sealed in found if sealed is not None]


def _begin(recipe: Sequence[str]) -> None:
    """Has the children of these stages begin what takes them long, which is to import their libraries.

    Those of the stage that is next begin with it: nothing would be gained.
    """
    for verb in recipe[1:]:
        if program := STAGES[verb].program:
            child.ahead(programs.command(program), programs.GIBIBYTES)


def _key(verb: str, job: Job, given: Given) -> str:
    """One digest of everything the stage's result depends on."""
    contract = STAGES[verb]
    return plain.digest(
        verb,
        _stage_source(verb),
        [job.model, _model_source(job.model.factory)] if contract.model else [],
        {name: getattr(job.options, name) for name in contract.reads},
        {artifact.made_by: artifact.key for artifact in given.artifacts},
        _versions(verb),
        [*machine.gpus(), machine.cpu()] if contract.here else [],
    )


def _versions(verb: str) -> dict[str, str]:
    return {name: found for name in STAGES[verb].libraries if (found := machine.version(name))}


def _stage_source(verb: str) -> str:
    """The stage's own file and every file on the floors below it."""
    return plain.digest([plain.file_digest(_PACKAGE / "stages" / f"{verb}.py"), *_below()])


@cache
def _below() -> tuple[str, ...]:
    """The digests of the files that all stages stand on."""
    below = [path for path in sorted(_PACKAGE.rglob("*.py")) if path.relative_to(_PACKAGE).parts[0] not in _ABOVE]
    return tuple(plain.file_digest(path) for path in below)


@cache
def _model_source(reference: str) -> str:
    return plain.digest([plain.file_digest(path) for path in factory.sources(reference)])


def _found(room: Path, key: str) -> Artifact | None:
    """What an earlier run left in the room, if its receipt bears this key and its files are untouched."""
    sealed = receipt.read(room)
    if sealed is None or sealed.key != key or not receipt.proves(room, sealed):
        return None
    return _artifact(room, sealed, fresh=False)


def _artifact(room: Path, sealed: Receipt, *, fresh: bool) -> Artifact:
    path, digest = room / sealed.kind.value, sealed.files.get(sealed.kind.value, "")  # a stage may leave its file out
    return Artifact(sealed.kind, path, digest, sealed.key, sealed.made_by, sealed.notes, sealed.seconds, fresh)


def _made(verb: str, job: Job, home: Path, given: Given, key: str, shelf: Sequence[Artifact]) -> Artifact:
    """Makes the artifact in a room nobody sees, seals it, and only then puts the room in its place."""
    kind, room = STAGES[verb].makes, home / verb
    _forget(home, verb)
    with _workshop(home) as bench:
        begun = time.perf_counter()
        notes = stages.load(verb).make(job, bench / kind.value, given)
        seconds = round(time.perf_counter() - begun, 3)
        parents = {artifact.made_by: artifact.key for artifact in given.artifacts}
        files = receipt.digests(bench)
        begin = next((artifact.digest for artifact in shelf if artifact.kind is Kind.WEIGHTS), files.get(_WEIGHTS))
        sealed = Receipt(kind, verb, key, parents, begin, files, _versions(verb), seconds, notes)
        receipt.write(bench, sealed)
        bench.replace(room)
    return _artifact(room, sealed, fresh=True)


def _forget(home: Path, verb: str) -> None:
    """Empties the room of a stage, and the rooms of all that was made from what it held."""
    stale = {verb}
    _discard(home / verb)  # also where its receipt cannot be read
    for room, sealed in rooms(home):
        if stale & set(sealed.parents):
            stale.add(sealed.made_by)
            _discard(room)


def _discard(room: Path) -> None:
    """Out of sight at once and then gone: a room that is killed half-emptied would be nobody's."""
    if room.exists():
        with _workshop(room.parent) as bench:
            room.replace(bench / room.name)


@contextmanager
def _workshop(home: Path) -> Iterator[Path]:
    """A folder to work in beside the rooms, gone afterwards unless it became one."""
    bench = Path(tempfile.mkdtemp(prefix=".making-", dir=home))
    try:
        bench.chmod(0o755)
        yield bench
    finally:
        shutil.rmtree(bench, ignore_errors=True)


def sweep(home: Path) -> None:
    """Takes away what an interrupted run left half-made, and the run's folder if nothing else is in it."""
    for left in home.glob(".making-*"):
        shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            left.unlink()  # which only a file allows
    with suppress(OSError):
        home.rmdir()  # which only an empty folder allows


def _enter(home: Path, recipe: Sequence[str]) -> None:
    """Makes the run's folder and sweeps what a killed run left; refuses a folder that holds somebody else's things."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        for left in home.glob(".making-*"):
            (shutil.rmtree if left.is_dir() else Path.unlink)(left)
        with _workshop(home):
            pass
    except OSError as error:
        raise BadInput(f"cannot write to {home}: {error.strerror}", "choose another folder with --out") from error
    for verb in recipe:
        room = home / verb
        if room.exists() and not (room / receipt.FILE).is_file():
            raise BadInput(f"{room} was not made by deploytool", "move it away, or choose another folder with --out")
