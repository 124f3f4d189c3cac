"""Every attack by external data is refused by `export` before any work: exit code 2, one problem and one remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deploytool.cli import app, console
from deploytool.cli.console import OutputMode
from deploytool.pipeline.export_options import ExportOptions
from deploytool.pipeline.plan import plan_export
from tests.rewrites.graph import external
from tests.rewrites.graph.external import Attack, place


def refusal(path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that `export` prints for a file that it must refuse."""
    console.set_mode(OutputMode())
    monkeypatch.setattr(sys, "argv", ["deploytool", "export", str(path), "--quick", "--to", "onnx", "--out", str(out)])
    assert app.run() == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()


@pytest.mark.parametrize("attack", [*external.attacks()], ids=lambda attack: attack.name)
def test_an_attack_is_refused(
    attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = external.write(tmp_path, attack)
    before = sorted(tmp_path.rglob("*"))
    problem, remedy = refusal(path, tmp_path / "out", monkeypatch, capfd)
    assert problem.startswith("deploytool: ")
    assert (problem + remedy).isprintable()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sound_file_is_planned(tmp_path: Path) -> None:
    """So the refusals above are not those of another problem."""
    path = external.write(tmp_path, Attack("sound", (external.external("w", place()),)))
    assert plan_export(str(path), ExportOptions(quick=True, to="onnx")).model.factory == str(path)
