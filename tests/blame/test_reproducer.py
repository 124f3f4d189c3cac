"""The failure pack: it reproduces the mismatch by itself, is written atomically, and replaces an older one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploytool.blame import reproducer
from deploytool.blame.locate import Divergence
from deploytool.blame.reduce import Mismatch, reduce
from deploytool.errors import BadInput
from tests.blame import faults
from tests.blame.conftest import MakeRun
from tests.blame.test_reduce import find_divergence

Reduced = tuple[Divergence, Mismatch]
FILES = {"README.md", "expected.npy", "failure.json", "got.npy", "inputs.npz", "model.onnx", "show.py"}


@pytest.fixture(scope="module", params=["scale_filter", "overflow"])
def reduced(request: pytest.FixtureRequest, runs: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Reduced:
    run, faulty = runs("tiny"), tmp_path_factory.mktemp("faulty") / "model.onnx"
    faults.plant(run / "fp16" / "model.onnx", faulty, "Conv", 1, getattr(faults, request.param))
    divergence = find_divergence(run, fp16=faulty)
    assert divergence is not None
    mismatch = reduce(divergence)
    assert mismatch is not None
    return divergence, mismatch


def run_script(folder: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs show.py in a process without this project on its path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-I", "-W", "error", str(folder / "show.py")]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_pack_reproduces_the_mismatch_elsewhere(reduced: Reduced, tmp_path: Path) -> None:
    pack = reproducer.write(tmp_path, *reduced)
    assert {path.name for path in pack.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["blame"]
    (tmp_path / "elsewhere").mkdir()
    moved = pack.rename(tmp_path / "elsewhere" / "moved")
    process = run_script(moved, Path("/"))
    assert process.returncode == 1
    assert process.stderr == ""
    assert process.stdout.startswith("error ")
    assert process.stdout.rstrip().endswith("of the largest expected value, tolerance 3.5e-03: MISMATCH")


def test_the_script_exits_with_0_without_a_mismatch(reduced: Reduced, tmp_path: Path) -> None:
    pack = reproducer.write(tmp_path, *reduced)
    np.save(pack / "expected.npy", np.load(pack / "got.npy"))
    process = run_script(pack, tmp_path)
    if np.isfinite(reduced[1].actual).all():
        assert (process.returncode, process.stdout.rpartition(": ")[2].strip()) == (0, "no mismatch")
    else:
        assert process.returncode == 1, "infinity is always a mismatch"


def test_the_script_imports_onnxruntime_and_numpy_only(reduced: Reduced, tmp_path: Path) -> None:
    script = (reproducer.write(tmp_path, *reduced) / "show.py").read_text()
    imported = {line.split()[1].split(".")[0] for line in script.splitlines() if line.startswith(("import", "from"))}
    assert imported == {"sys", "pathlib", "numpy", "onnxruntime"}
    assert len(script.splitlines()) <= 15


def test_the_files_describe_the_mismatch(reduced: Reduced, tmp_path: Path) -> None:
    divergence, mismatch = reduced
    pack = reproducer.write(tmp_path, *reduced)
    summary = json.loads((pack / "failure.json").read_text())
    assert (summary["schema"], summary["stage"], summary["tensor"]) == ("deploytool.failure/1", "fp16", mismatch.tensor)
    assert [node["op"] for node in summary["nodes"]] == ["Conv"]
    assert {"onnxruntime", "onnx", "numpy", "torch", "python"} <= set(summary["versions"])
    assert summary["error"] > summary["tolerated"]
    model = onnx.load(pack / "model.onnx")
    with np.load(pack / "inputs.npz", allow_pickle=False) as inputs:
        assert [inputs[name].shape for name in inputs] == [(1, 8, 16, 16)] * len(model.graph.input)
    assert np.load(pack / "expected.npy", allow_pickle=False).shape == np.load(pack / "got.npy").shape
    readme = (pack / "README.md").read_text()
    assert mismatch.tensor in readme
    assert mismatch.origin in readme
    for text in (readme, json.dumps(summary)):
        assert str(divergence.graph.parent) not in text, "no path of this machine"


def test_a_new_pack_replaces_the_old_one(reduced: Reduced, tmp_path: Path) -> None:
    (reproducer.write(tmp_path, *reduced) / "stale.txt").write_text("old")
    assert {path.name for path in reproducer.write(tmp_path, *reduced).iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["blame"]


def test_a_folder_of_the_user_is_not_changed(reduced: Reduced, tmp_path: Path) -> None:
    (tmp_path / "blame").mkdir()
    (tmp_path / "blame" / "thesis.tex").write_text("mine")
    with pytest.raises(BadInput, match="was not made by deploytool"):
        reproducer.write(tmp_path, *reduced)
    assert [path.name for path in (tmp_path / "blame").iterdir()] == ["thesis.tex"]


def test_an_interruption_leaves_no_files(reduced: Reduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(reproducer, "_readme", interrupt)
    with pytest.raises(KeyboardInterrupt):
        reproducer.write(tmp_path, *reduced)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_run_folder_is_an_error(reduced: Reduced, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot write to"):
        reproducer.write(tmp_path / "nowhere", *reduced)


def test_no_node_name_breaks_the_markdown() -> None:
    code = reproducer._code("a`|\n| `show.py` | b\x1b")
    assert code == r"`a'/\n/ 'show.py' / b\x1b`"
