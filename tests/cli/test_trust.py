"""A run from elsewhere runs no code here, unless it is trusted with --trust-code."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import deploytool
from deploytool import serde
from deploytool.errors import BadInput
from deploytool.pipeline import runner, trust
from deploytool.results import receipt
from tests.conftest import Command


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    source = tmp_path_factory.mktemp("own") / "net.py"
    source.write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4))\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        run = deploytool.export(f"{source}:make", inputs=[(3, 2, 2)], to="onnx", quick=True, out=source.parent / "run")
    assert run.passed
    return run.folder


def set_factory(run: Path, factory: str) -> None:
    """Changes the factory in the weights of a run, with matching receipts."""
    weights = run / "load" / "weights.safetensors"
    with safe_open(weights, "pt") as opened:
        model = json.loads(opened.metadata()["model"])
    save_file(load_file(weights), weights, metadata={"model": json.dumps({**model, "factory": factory})})
    entry = receipt.read(weights.parent)
    assert entry is not None
    path = weights.parent / receipt.FILE
    path.write_text(path.read_text().replace(entry.files[weights.name], serde.file_digest(weights)))
    assert all(receipt.matches(folder, entry) for folder, entry in runner.stage_directories(run))


@pytest.mark.usefixtures("own_home")
def test_a_run_of_this_user_is_trusted(exported: Path) -> None:
    trust.check(exported, trust_code=False)


def test_a_foreign_run_is_refused_without_trust_code(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BadInput, match="which this user has not exported here"):
        trust.check(exported, trust_code=False)
    trust.check(exported, trust_code=True)
    monkeypatch.setenv("HOME", "/dev/null/nowhere")
    with pytest.raises(BadInput, match="which this user has not exported here"):
        trust.check(exported, trust_code=False)


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize("factory", ["subprocess:check_output", "os:system", "/tmp/evil.py:make", "builtins:exec"])
def test_a_run_with_a_changed_factory_is_refused(exported: Path, tmp_path: Path, factory: str) -> None:
    run = Path(shutil.copytree(exported, tmp_path / "run"))
    set_factory(run, factory)
    with pytest.raises(BadInput, match="which this user has not exported here"):
        trust.check(run, trust_code=False)


@pytest.mark.parametrize("command", ["blame", "bench"])
def test_commands_that_run_the_model_refuse_a_foreign_run(
    deploytool: Command, exported: Path, tmp_path: Path, command: str
) -> None:
    run = Path(shutil.copytree(exported, tmp_path / "run"))
    set_factory(run, "subprocess:check_output")
    done = deploytool(command, str(run), HOME=str(tmp_path))
    assert done.returncode == 2
    assert "which this user has not exported here" in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.usefixtures("own_home")
def test_an_export_into_a_planted_run_reuses_no_foreign_code(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker can compute the keys of a planted run; here every first stage has the same key."""
    monkeypatch.setattr(runner, "_first_key", lambda *arguments: "k")
    export = partial(deploytool.export, f"{exported.parent / 'net.py'}:make", inputs=[(3, 2, 2)], to="onnx", quick=True)
    planted = export(out=tmp_path / "run").folder
    set_factory(planted, f"{tmp_path / 'evil.py'}:make")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    first = export(out=planted).artifacts[0]
    assert (first.made_by, first.fresh) == ("load", True)
    assert not (tmp_path / "ran").exists()
    assert not export(out=planted).artifacts[0].fresh
