"""Tests that a model which TorchScript does not support is exported without a TorchScript file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from deploytool import api
from deploytool.api import Run
from deploytool.loading import catalog
from deploytool.pipeline import runner
from deploytool.report import junit
from deploytool.spec import Job, Options, Stage, Status, Tensor
from tests.conftest import ROOT, Command

OWN = ROOT / "tests" / "user_models" / "untraceable.py"
MODELS = {
    "CustomFunction": "Could not export Python function call 'Swish'",
    "NestedCustomFunction": "Could not export Python function call 'Swish'",
    "RaisesInTrace": "no TorchScript, please",
    "RaisesWithoutMessage": "KeyError",
    "invalid_class_name": "",
}


def exported(name: str, out: Path, exporter: str = "torchscript") -> Run:
    return api.export(f"{OWN}:{name}", inputs=[(16,)], quick=True, exporter=exporter, out=out)


@pytest.mark.parametrize("name", MODELS)
def test_the_export_continues_without_torchscript(name: str, tmp_path: Path) -> None:
    run = exported(name, tmp_path / "run").check()
    assert run.script is None
    assert not (tmp_path / "run" / "torchscript" / "model.pt").exists()
    assert run.onnx is not None
    assert run.fp16 is not None
    (row,) = (comparison for comparison in run.report.comparisons if comparison.stage == "torchscript")
    assert row.left_out
    assert row.status is Status.UNAVAILABLE
    assert row.reason.startswith(f"TorchScript does not support the model: {MODELS[name]}")
    (remark,) = (line for line in run.report.remarks if line.startswith("torchscript: left out"))
    assert "\n" not in remark
    assert MODELS[name] in remark


@pytest.mark.parametrize("step", ["trace", "freeze", "save", "load"])
@pytest.mark.parametrize("error", [RuntimeError("Expression of type - cannot be used"), UnicodeError(), OSError(28)])
def test_an_error_in_any_step_of_torchscript_is_handled(
    step: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch.jit, step, fail)
    model = catalog.find(f"{OWN}:Naming", (Tensor("vector", ("batch", 16)),), {})
    *_, script = runner.run(
        Job(model, Options(images=4)), (Stage.LOAD, Stage.GOLDEN, Stage.TORCHSCRIPT), tmp_path / "run"
    )
    assert script.left_out
    assert [path.name for path in (tmp_path / "run" / "torchscript").iterdir()] == ["receipt.json"]


def test_all_commands_accept_a_run_without_torchscript(tmp_path: Path, deploytool: Command) -> None:
    run = exported("CustomFunction", tmp_path / "run")
    repeated = exported("CustomFunction", tmp_path / "run")
    assert [artifact.fresh for artifact in repeated.artifacts] == [False] * len(repeated.artifacts)
    for command in (("show",), ("pack",), ("bench", "--seconds", "0.1"), ("report",)):
        done = deploytool(command[0], str(run.folder), *command[1:])
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert run.report_html is not None
    page = run.report_html.read_text()
    assert "Could not export Python function call" in page
    assert "Not measured here" not in page
    assert 'message="unavailable (TorchScript' in junit.text(run.report)
    assert json.loads(run.report_json.read_text())["comparisons"][1]["left_out"] is True
