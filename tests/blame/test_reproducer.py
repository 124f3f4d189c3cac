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
from tests.blame.conftest import Runs
from tests.blame.test_reduce import clue_of

Found = tuple[Divergence, Mismatch]
FILES = {"README.md", "expected.npy", "failure.json", "got.npy", "inputs.npz", "model.onnx", "show.py"}


@pytest.fixture(scope="module", params=["scale_filter", "overflow"])
def found(
    request: pytest.FixtureRequest, runs: Runs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Divergence, Mismatch]:
    run, spoiled = runs("tiny"), tmp_path_factory.mktemp("spoiled") / "model.onnx"
    faults.plant(run / "fp16" / "model.onnx", spoiled, "Conv", 1, getattr(faults, request.param))
    clue = clue_of(run, halve=spoiled)
    assert clue is not None
    small = reduce(clue)
    assert small is not None
    return clue, small


def show(place: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The script, in a process that knows nothing of this project."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-I", "-W", "error", str(place / "show.py")]
    return subprocess.run(command, cwd=cwd, env=bare, capture_output=True, text=True, check=False)


def test_a_pack_shows_the_mismatch_by_itself(found: Found, tmp_path: Path) -> None:
    place = reproducer.write(tmp_path, *found)
    assert {path.name for path in place.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["blame"]
    (tmp_path / "elsewhere").mkdir()
    moved = place.rename(tmp_path / "elsewhere" / "moved")
    done = show(moved, Path("/"))
    assert done.returncode == 1
    assert done.stderr == ""
    assert done.stdout.startswith("error ")
    assert done.stdout.rstrip().endswith("of the largest expected value, tolerated 3.5e-03: MISMATCH")


def test_where_it_is_mended_the_script_ends_with_0(found: Found, tmp_path: Path) -> None:
    place = reproducer.write(tmp_path, *found)
    np.save(place / "expected.npy", np.load(place / "got.npy"))
    done = show(place, tmp_path)
    if np.isfinite(found[1].got).all():
        assert (done.returncode, done.stdout.rpartition(": ")[2].strip()) == (0, "no mismatch")
    else:
        assert done.returncode == 1, "what is no number is never right"


def test_the_script_needs_nothing_but_onnxruntime_and_numpy(found: Found, tmp_path: Path) -> None:
    script = (reproducer.write(tmp_path, *found) / "show.py").read_text()
    imported = {line.split()[1].split(".")[0] for line in script.splitlines() if line.startswith(("import", "from"))}
    assert imported == {"sys", "pathlib", "numpy", "onnxruntime"}
    assert len(script.splitlines()) <= 15


def test_the_files_say_what_they_are(found: Found, tmp_path: Path) -> None:
    clue, small = found
    place = reproducer.write(tmp_path, *found)
    facts = json.loads((place / "failure.json").read_text())
    assert (facts["schema"], facts["stage"], facts["tensor"]) == ("deploytool.failure/1", "fp16", small.tensor)
    assert [node["op"] for node in facts["nodes"]] == ["Conv"]
    assert {"onnxruntime", "onnx", "numpy", "torch", "python"} <= set(facts["versions"])
    assert facts["error"] > facts["tolerated"]
    model = onnx.load(place / "model.onnx")
    with np.load(place / "inputs.npz", allow_pickle=False) as inputs:
        assert [inputs[name].shape for name in inputs] == [(1, 8, 16, 16)] * len(model.graph.input)
    assert np.load(place / "expected.npy", allow_pickle=False).shape == np.load(place / "got.npy").shape
    said = (place / "README.md").read_text()
    assert small.tensor in said
    assert small.origin in said
    for text in (said, json.dumps(facts)):
        assert str(clue.graph.parent) not in text, "no path of this machine"


def test_a_new_pack_takes_the_place_of_the_old(found: Found, tmp_path: Path) -> None:
    (reproducer.write(tmp_path, *found) / "stale.txt").write_text("old")
    assert {path.name for path in reproducer.write(tmp_path, *found).iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["blame"]


def test_somebody_elses_folder_is_not_touched(found: Found, tmp_path: Path) -> None:
    (tmp_path / "blame").mkdir()
    (tmp_path / "blame" / "thesis.tex").write_text("mine")
    with pytest.raises(BadInput, match="was not made by deploytool"):
        reproducer.write(tmp_path, *found)
    assert [path.name for path in (tmp_path / "blame").iterdir()] == ["thesis.tex"]


def test_an_interruption_leaves_the_old_pack_whole(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(reproducer, "_readme", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproducer.write(tmp_path, *found)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(found: Found, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot write to"):
        reproducer.write(tmp_path / "nowhere", *found)


def test_no_name_of_a_node_ends_its_place_on_the_page() -> None:
    said = reproducer._code("a`|\n| `show.py` | b\x1b")
    assert said == r"`a'/\n/ 'show.py' / b\x1b`"
