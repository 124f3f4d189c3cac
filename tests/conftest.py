"""Shared fixtures: a tiny model, a finished run of it, its bundle, and the command line."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from deploytool import targets
from deploytool.cli import params
from deploytool.host import machine, owner
from deploytool.loading import catalog
from deploytool.loading.stage_inputs import StageInputs
from deploytool.pipeline import runner, trust
from deploytool.pipeline.recipe import PIPELINE
from deploytool.report import update
from deploytool.results import report
from deploytool.results.artifact import Kind
from deploytool.results.report import Report
from deploytool.spec import Job, Model, Options, Preprocessing, Range, Stage, Tensor
from tests import warm

os.environ.setdefault("OMP_NUM_THREADS", "1")  # on a busy machine, torch's threads would wait for each other

# both limit wall-clock time, which says little on a busy machine
settings.register_profile("deploytool", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("deploytool")

ROOT = Path(__file__).parents[1]
PYTHONPATH = f"{ROOT / 'tests' / 'without_openvino'}{os.pathsep}{ROOT}"  # of child processes: OpenVINO is hidden
TINY = Model(
    name="tiny",
    factory=f"{Path(__file__).parent / 'tiny.py'}:tiny",
    options={"classes": 10},
    inputs=(Tensor("input", ("batch", 3, 32, 32)),),
    outputs=(Tensor("logits", ("batch", 10)),),
    preprocessing=Preprocessing(resize=32, crop=32),
)
FREE = {"H": Range(32, 48, 64), "W": Range(32, 48, 64)}
QUICK = Options(images=4, seconds=0.1, rewrite="original")  # the fastest rewrite may differ from run to run

Command = Callable[..., subprocess.CompletedProcess[str]]


# integration tests export, start a server or a browser, or run the command line
_INTEGRATION_FIXTURES = {"finished", "run_copy", "packed", "walk", "deploytool", "browser", "runs", "served", "device"}
_INTEGRATION_FOLDERS = {"bench", "cli", "docs", "end_to_end", "foreign", "fuzz", "power", "reliability", "transfer"}


@pytest.hookimpl(tryfirst=True)  # before -m deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that `make test-fast` leaves out, and skips those marked gpu where there is no GPU.

    Files with integration tests come first, and the page of blocks before all: what lasts long must not come last, when
    the other worker has nothing left to do.
    """
    for item in items:
        if item.get_closest_marker("gpu") and not machine.gpus():
            item.add_marker(pytest.mark.skip(reason="no CUDA driver answers on this machine"))
        fixtures = set(getattr(item, "fixturenames", ()))
        folders = set(item.path.relative_to(ROOT).parts)
        if fixtures & _INTEGRATION_FIXTURES or folders & _INTEGRATION_FOLDERS or item.get_closest_marker("sweep"):
            item.add_marker(pytest.mark.integration)
    slow = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: (item.path.name != "test_blocks.py", item.path not in slow))


def pytest_collection_finish() -> None:
    """Takes what was collected out of garbage collection, which would otherwise look through all of it each time."""
    gc.collect()
    gc.freeze()


def artifacts(run: Path) -> StageInputs:
    """The artifacts of a finished run, as inputs of a later stage."""
    return StageInputs(
        tuple(
            runner.artifact_of(directory, receipt, fresh=False) for directory, receipt in runner.stage_directories(run)
        )
    )


@pytest.fixture(scope="session")
def with_engine() -> Options:
    """The options of a run that builds the default TensorRT-RTX engine."""
    decisions = targets.plan_engines(("rtx40",))
    return dataclasses.replace(QUICK, targets=decisions, engines=targets.engines(decisions))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, with_engine: Options) -> Path:
    """A finished run of the tiny model with an engine; tests must not change it."""
    home = tmp_path_factory.mktemp("run") / "tiny"
    artifacts_made = list(runner.run(Job(TINY, with_engine), PIPELINE, home))
    assert [artifact.kind for artifact in artifacts_made][-1] is Kind.REPORT
    trust.note(home)
    return home


@pytest.fixture(scope="session")
def dead() -> str:
    """The owner name of a process that has ended."""
    program = "from deploytool.host import owner; print(owner.name())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def old(path: Path) -> Path:
    """Sets the times of a file or folder and everything in it to two hours ago; returns its path."""
    hours_ago = time.time() - 2 * owner.ABANDONED_S
    for entry in (*path.rglob("*"), path):
        os.utime(entry, (hours_ago, hours_ago), follow_symlinks=False)
    return path


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder for the tests, so that runs of the user are neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))
        yield home


@pytest.fixture(autouse=True)
def no_export_in_a_unit_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that runs the pipeline without the mark `integration`."""
    if not request.node.get_closest_marker("integration"):
        monkeypatch.setattr(runner, "iterate", lambda *_: pytest.fail("it exports: mark it as an integration test"))


@pytest.fixture(autouse=True)
def openvino_is_not_installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process there is ONNX Runtime alone, unless a test asks for `both_runtimes`.

    Which of the two is faster differs from run to run, and every start would take seconds longer. In child processes
    that import from `PYTHONPATH`, OpenVINO has an empty version, as if it were not installed.
    """
    if "both_runtimes" not in request.fixturenames:
        monkeypatch.setattr("deploytool.device.environment.OPENVINO", "not-installed")
        monkeypatch.setattr("deploytool.backends.openvino.is_installed", lambda: False)


@pytest.fixture
def both_runtimes() -> None:
    """A device in this process has OpenVINO too; skips the test where it is not installed."""
    pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def pages_are_drawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No export of a test starts a child process for its page, which would import matplotlib each time."""
    monkeypatch.setattr(update, "prestarted", lambda _: nullcontext())


@pytest.fixture(autouse=True)
def finished_is_unchanged(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that changes the finished run, before it breaks later tests."""
    if "finished" not in request.fixturenames:
        yield
        return
    home: Path = request.getfixturevalue("finished")
    before = _state(home)
    yield
    assert _state(home) == before, f"{home} is shared by all tests: use run_copy"


def _state(home: Path) -> set[tuple[Path, int, int]]:
    """Every file below a folder, with its size in bytes and modification time."""
    return {(path, path.stat().st_size, path.stat().st_mtime_ns) for path in home.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def packed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the finished run; tests must not change it."""
    home = shutil.copytree(finished, tmp_path_factory.mktemp("packed") / "tiny")
    return runner.extend(Stage.PACK, QUICK, home).path.parent


@pytest.fixture
def run_copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def warmed() -> Iterator[str]:
    """The address of a process that has imported the heavy libraries, for `warm.command`."""
    with warm.running({**os.environ, "PYTHONPATH": PYTHONPATH}) as address:
        yield address


@pytest.fixture
def deploytool(warmed: str, tmp_path: Path) -> Command:
    """Runs the command line in a new process and an empty folder."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        program = ("-m", "deploytool", *arguments)
        fresh = [sys.executable, *program]
        command = warm.command(warmed, *program) if warm.is_able(environment) else fresh
        settings = {**os.environ, "PYTHONPATH": PYTHONPATH, "COLUMNS": "120", **environment}
        return subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)

    return call


@pytest.fixture
def walk(tmp_path: Path, with_engine: Options) -> Callable[..., Report]:
    """Exports a model of tests/user_models, with an engine by default."""

    def go(name: str, inputs: list[str], exporter: str = "torchscript", engine: bool = True) -> Report:
        file, _, factory = name.partition(":")
        tensors = params.tensors(inputs)
        names = {size for tensor in tensors for size in tensor.shape}
        sizes = {name: limits for name, limits in FREE.items() if name in names}
        options = dataclasses.replace(with_engine if engine else QUICK, exporter=exporter, sizes=sizes)
        recipe = PIPELINE if engine else [stage for stage in PIPELINE if stage != Stage.BUILD]
        job = Job(catalog.find(f"{ROOT / 'tests' / 'user_models' / file}.py:{factory}", tensors), options)
        return report.read(list(runner.run(job, recipe, tmp_path / "run"))[-1].path)

    return go


def modules_of(program: str) -> set[str]:
    """The top-level modules that a program has imported at its end."""
    ending = "\nimport json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    command = [sys.executable, "-c", program + ending]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))
