"""The folder of a run holds the old run or the new one, whatever fails, is killed, or runs concurrently."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploytool.errors import BadInput, ResourceExhausted, StageFailed
from deploytool.host import owner, swap
from deploytool.loading import source_model
from deploytool.loading.source_model import SourceModel
from deploytool.loading.stage_inputs import StageInputs
from deploytool.pipeline import runner
from deploytool.results import receipt
from deploytool.results.artifact import Notes
from deploytool.run_folder import lock, publish, staging
from deploytool.spec import Job, Stage
from deploytool.stages import registry
from tests.conftest import QUICK, TINY

pytestmark = pytest.mark.integration

RECIPE = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.VALIDATE)
DEAD = owner.name().replace(f"-{os.getpid()}-", "-4194303-")  # above the highest process id of this machine
ALIVE = owner.name()


class SeedWriter:
    """A stage that writes the seed of the options to its artifact."""

    def __init__(self, stage: str) -> None:
        self.verb = stage

    def make(self, job: Job, out: Path, inputs: StageInputs) -> Notes:
        input_seeds = [json.loads(artifact.path.read_text())["seed"] for artifact in inputs.artifacts]
        assert set(input_seeds) <= {job.options.seed}
        out.write_text(json.dumps({"verb": self.verb, "seed": job.options.seed}))
        return {}


@pytest.fixture(autouse=True)
def stages_that_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "import_stage", SeedWriter)
    monkeypatch.setattr(runner, "_start_workers", lambda recipe: None)
    monkeypatch.setattr(source_model, "read", lambda weights: SourceModel(TINY, weights))  # they write JSON


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A finished run of seed 0."""
    folder = tmp_path / "runs" / "net"
    assert export(folder, 0) == set(RECIPE)
    return folder


def export(folder: Path, seed: int, recipe: tuple[Stage, ...] = RECIPE) -> set[Stage]:
    """Exports, and returns the stages that were not reused."""
    job = Job(TINY, dataclasses.replace(QUICK, seed=seed))
    return {made.made_by for made in runner.run(job, recipe, folder) if made.fresh}


def seeds(folder: Path) -> set[int]:
    """The seeds of all stage directories, each checked by its receipt; one seed if the run is consistent."""
    directories = runner.stage_directories(folder)
    assert {directory.name for directory, _ in directories} == set(RECIPE)
    assert all(receipt.matches(directory, proof) for directory, proof in directories)
    return {json.loads((directory / proof.kind.value).read_text())["seed"] for directory, proof in directories}


def extra_names(folder: Path) -> set[str]:
    """The names in and beside a run that are no part of it."""
    inside = {path.name for path in folder.iterdir()} - set(RECIPE)
    return inside | {path.name for path in folder.parent.iterdir()} - {folder.name}


REFUSED = StageFailed("refused", "mend it")


def fail_export(monkeypatch: pytest.MonkeyPatch, folder: Path, stage: str, error: BaseException = REFUSED) -> None:
    """An export of seed 1 whose stage `verb` raises."""

    class Failing(SeedWriter):
        def make(self, job: Job, out: Path, inputs: StageInputs) -> Notes:
            if self.verb != stage:
                return super().make(job, out, inputs)
            out.write_text("half")
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(registry, "import_stage", Failing)
        with pytest.raises(ResourceExhausted if isinstance(error, OSError) else type(error)):
            export(folder, 1)


@pytest.mark.parametrize("stage", RECIPE)
@pytest.mark.parametrize(
    "error", [StageFailed("refused", "mend it"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")]
)
def test_a_failed_export_leaves_the_finished_run_unchanged(
    home: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: BaseException
) -> None:
    (home / "report.html").write_text("the page")
    fail_export(monkeypatch, home, stage, error)
    assert seeds(home) == {0}
    assert (home / "report.html").read_text() == "the page"
    done = RECIPE[: RECIPE.index(stage)]
    assert extra_names(home) == {"report.html", *([publish.UNFINISHED] if done else [])}
    assert export(home, 0) == set()
    assert extra_names(home) == {"report.html"}


def test_the_next_export_reuses_finished_stages_of_a_failed_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_export(monkeypatch, home, "simplify")
    assert export(home, 1) == {"simplify", "validate"}
    assert seeds(home) == {1}
    assert not extra_names(home)


def test_a_failed_first_export_keeps_its_finished_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_export(monkeypatch, tmp_path / "net", "export")
    assert {path.name for path in (tmp_path / "net").iterdir()} == {Stage.LOAD, Stage.GOLDEN}
    assert export(tmp_path / "net", 1) == set(RECIPE[2:])


def test_files_beside_the_stage_directories_are_carried_over(home: Path) -> None:
    (home / "bench.json").write_text("{}")
    (home / "notes.txt").write_text("mine")
    (home / "devices").mkdir()
    (home / "devices" / "pi.json").write_text("{}")
    export(home, 1)
    assert seeds(home) == {1}
    assert extra_names(home) == {"bench.json", "notes.txt", "devices"}
    assert (home / "notes.txt").read_text() == "mine"


def test_a_file_written_during_publication_is_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = swap.exchange

    def write_then_exchange(first: Path, other: Path) -> bool:
        (home / "bench.json").write_text("{}")
        return original(first, other)

    monkeypatch.setattr(swap, "exchange", write_then_exchange)
    export(home, 1)
    assert extra_names(home) == {"bench.json"}


def with_foreign_files(home: Path, _: pytest.MonkeyPatch) -> None:
    (home / "thesis").mkdir()
    (home / "thesis" / "chapter.tex").write_text("mine")


def as_working_folder(home: Path, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(home)


def without_exchange(home: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(swap, "exchange", lambda first, other: False)


def with_read_only_parent(home: Path, patch: pytest.MonkeyPatch) -> None:
    original = os.mkdir

    def refused(path: Path, *arguments: int) -> None:
        if Path(path).parent == home.parent and Path(path) != home:
            raise PermissionError(errno.EACCES, "not ours", str(path))
        original(path, *arguments)

    patch.setattr(os, "mkdir", refused)


def as_mount_point(home: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("os.path.ismount", lambda path: Path(path) == home)


LOCATIONS = [
    with_foreign_files,
    as_working_folder,
    without_exchange,
    with_read_only_parent,
    as_mount_point,
]
Location = Callable[[Path, pytest.MonkeyPatch], None]


@pytest.mark.parametrize("location", LOCATIONS)
def test_stage_directories_are_moved_where_the_folder_cannot_be_exchanged(
    home: Path, monkeypatch: pytest.MonkeyPatch, location: Location
) -> None:
    (home / "bench.json").write_text("{}")
    number = home.stat().st_ino
    location(home, monkeypatch)
    assert export(home, 1) == set(RECIPE)
    assert home.stat().st_ino == number
    assert seeds(home) == {1}
    assert extra_names(home) - {"thesis"} == {"bench.json"}
    if (home / "thesis").exists():
        assert (home / "thesis" / "chapter.tex").read_text() == "mine"
    assert export(home, 1) == set()


def make_link(home: Path) -> Path:
    (home.parent.parent / "link").symlink_to(home)
    return home.parent.parent / "link"


def test_a_link_to_a_run_stays_a_link(home: Path) -> None:
    link = make_link(home)
    assert export(link, 1) == set(RECIPE)
    assert link.is_symlink()
    assert seeds(home) == seeds(link) == {1}
    assert not extra_names(home)


def test_the_permissions_of_a_folder_are_kept(home: Path) -> None:
    home.chmod(0o2770)
    export(home, 1)
    assert home.stat().st_mode & 0o7777 == 0o2770


CALLS = ("rename", "replace", "rmdir", "link", "unlink", "mkdir")


def kill_export_at(number: int, folder: Path, seed: int) -> bool:
    """Exports in a child process that dies before file operation `number`; returns whether it died."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    remaining = number
    try:
        for name in CALLS:
            original = getattr(os, name)

            def count_call(*arguments: object, original: Callable[..., object] = original, **options: object) -> object:
                nonlocal remaining
                remaining -= 1
                if remaining < 0:
                    os._exit(9)
                return original(*arguments, **options)

            setattr(os, name, count_call)
        exchange = swap.exchange
        swap.exchange = lambda one, other: os._exit(9) if remaining <= 0 else exchange(one, other)
        export(folder, seed)
    finally:
        os._exit(0)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # a fork among threads, from Python 3.12
@pytest.mark.parametrize("location", [None, with_foreign_files, without_exchange])
def test_an_export_killed_at_any_step_leaves_one_complete_run(
    home: Path, monkeypatch: pytest.MonkeyPatch, location: Location | None
) -> None:
    if location:
        location(home, monkeypatch)
    current, number, outcomes = 0, 0, set()
    while kill_export_at(number, home, current + 1):
        if location is None:
            assert not (home / ".publishing").exists()
        directories = seeds(home)  # completes a publication of a dead process first
        assert directories in ({current}, {current + 1}), f"step {number}"
        outcomes |= {directories == {current}}
        current = max(directories)
        number += 3 if location else 2
    assert outcomes == {True} if number < 8 else True in outcomes
    assert export(home, current + 5) == set(RECIPE)
    assert seeds(home) == {current + 5}
    assert extra_names(home) <= {"thesis"}


@pytest.mark.parametrize("process", [ALIVE, "killed", DEAD], ids=["alive", "unknown", "dead"])
def test_only_folders_of_dead_processes_are_swept(home: Path, process: str) -> None:
    (home / f".making-{process}").mkdir()
    (home.parent / f".net.making-{process}").mkdir()
    (home / f".report.html.{process}.making").touch()
    export(home, 1)
    assert (home / f".report.html.{process}.making").exists() == (process != DEAD)
    assert (home / f".making-{process}").exists() == (process == ALIVE)
    assert (home.parent / f".net.making-{process}").exists() == (process != DEAD)


def test_the_abandoned_run_with_most_stages_is_continued(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, stages in ((1, 1), (2, 3), (3, 0)):
        other = home.parent / "other"
        fail_export(monkeypatch, other, RECIPE[stages])
        location = home.parent / f".net.making-{DEAD[:-1]}{number}"
        if stages:
            other.rename(location)
        else:
            location.mkdir()
    assert export(home, 1) == {"simplify", "validate"}
    assert not extra_names(home)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


def export_concurrently(folder: Path, *export_seeds: int) -> list[BaseException]:
    """Exports these seeds concurrently, and returns what was raised."""
    raised: list[BaseException] = []

    def first(seed: int) -> None:
        try:
            export(folder, seed)
        except BaseException as error:  # reported to the test
            raised.append(error)

    threads = [threading.Thread(target=first, args=(seed,)) for seed in export_seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize("export_seeds", [(1, 1), (1, 2), (1, 1, 1, 1), (1, 2, 3, 4), (0, 1)])
def test_concurrent_exports_wait_for_each_other(home: Path, export_seeds: tuple[int, ...]) -> None:
    assert export_concurrently(home, *export_seeds) == []
    assert seeds(home) < set(export_seeds) or seeds(home) == set(export_seeds)
    assert len(seeds(home)) == 1
    assert not extra_names(home)


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("export_seeds", [(1, 1), (1, 2), (1, 1, 1, 1), (1, 2, 3, 4)])
def test_without_locks_the_last_export_remains_and_no_run_is_corrupt(home: Path, export_seeds: tuple[int, ...]) -> None:
    for _ in range(3):
        raised = export_concurrently(home, *export_seeds)
        assert all(isinstance(error, BadInput) for error in raised), raised
        assert len(seeds(home)) == 1
    assert not extra_names(home) - {publish.UNFINISHED}


def test_an_export_that_waits_logs_a_warning_and_continues(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with lock.locked(home):
        waiting = threading.Thread(target=export, args=(home, 1))
        with caplog.at_level(logging.WARNING):
            waiting.start()
            time.sleep(1.3)
            assert caplog.messages == [f"another deploytool works in {home}: waiting until it is done"]
        assert seeds(home) == {0}
    waiting.join()
    assert seeds(home) == {1}


def test_a_publication_by_another_process_is_awaited_and_then_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_exchange(home, monkeypatch)
    monkeypatch.setattr(publish, "_TIMEOUT_S", 0.2)
    (home / ".publishing").mkdir()
    (home / ".publishing" / ".stages.json").write_text(json.dumps(RECIPE))
    (home / ".publishing" / ".owner").write_text(ALIVE)
    with pytest.raises(BadInput, match="another deploytool is publishing into"):
        export(home, 1)
    (home / ".publishing" / ".owner").write_text(DEAD)
    assert export(home, 1) <= set(RECIPE)
    assert seeds(home) == {1}


def test_a_run_with_a_very_long_name_is_staged_beside_it(tmp_path: Path) -> None:
    home = tmp_path / ("n" * 250)
    assert export(home, 0) == export(home, 1) == set(RECIPE)
    assert seeds(home) == {1}
    assert {path.name for path in tmp_path.iterdir()} == {home.name}


def test_an_interrupted_process_sweeps_its_own_run(home: Path) -> None:
    job = Job(TINY, dataclasses.replace(QUICK, seed=1))
    run: Iterator[object] = runner.run(job, RECIPE, home)
    next(run), next(run)
    runner.sweep(home)
    assert seeds(home) == {0}
    assert extra_names(home) == {publish.UNFINISHED}
    assert {path.name for path in (home / publish.UNFINISHED).iterdir()} >= {Stage.LOAD, Stage.GOLDEN}


def test_linked_stages_share_files_and_not_the_folder(home: Path) -> None:
    with staging.open_run(home) as staged:
        staged.begin()
        linked = staged.link_stage(home / "golden")
        assert linked.stat().st_ino != (home / "golden").stat().st_ino
        assert (linked / receipt.FILE).samefile(home / "golden" / receipt.FILE)
    assert not extra_names(home)
