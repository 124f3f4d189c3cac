from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deploytool.benchmark import result
from deploytool.spec import GateOutcome
from tests.conftest import Command

QUICK = ("--threads", "1", "--seconds", "0.1")


def test_a_run_is_timed_beside_eager(deploytool: Command, run_copy: Path) -> None:
    done = deploytool("bench", str(run_copy), *QUICK, "--batch", "1,2", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "tiny at batch 2, 1 thread, " in done.stdout
    assert done.stdout.count("the baseline") == 2
    assert "built, not run" in done.stdout
    assert f"Written: {run_copy / 'bench.json'}" in done.stdout
    ways = ("eager", "rewrite", "build/model.plan")
    drawn = [line for line in done.stdout.splitlines() if line.split()[:1] and line.split()[0] in ways]
    assert [line.split()[0] for line in drawn] == [*ways, *ways]
    assert all(len(line) <= 80 for line in drawn)
    found = result.read(run_copy)
    assert result.read_matching(run_copy) == found
    assert (found.threads, [sweep.batch for sweep in found.sweeps]) == (1, [1, 2])


def test_a_run_as_one_document(deploytool: Command, run_copy: Path) -> None:
    done = deploytool("bench", str(run_copy), *QUICK, "--json", "--baseline", "export", "--device", "cpu")
    document = json.loads(done.stdout)
    assert document["error"] is None
    assert document["bench"] == json.loads((run_copy / "bench.json").read_text())
    assert document["bench"]["baseline"] == "export"


def test_a_speed_that_was_asked_for(deploytool: Command, run_copy: Path) -> None:
    """What ships is an engine that was not run; without it, only the exit code of an even machine is known."""
    done = deploytool("bench", str(run_copy), *QUICK, "--min-speedup", "0.01")
    assert done.returncode == 6
    assert "build/model.plan, 0.01× the baseline: built, not run" in done.stderr
    shutil.rmtree(run_copy / "build")
    done = deploytool("bench", str(run_copy), *QUICK, "--min-speedup", "1000", "--json")
    gate = json.loads(done.stdout)["bench"]["gate"]
    assert gate["outcome"] in (GateOutcome.MISSED, GateOutcome.OPEN)
    assert done.returncode == {GateOutcome.MISSED: 4, GateOutcome.OPEN: 6}[gate["outcome"]]
    assert (gate["outcome"] == GateOutcome.OPEN) == gate["reason"].startswith("no verdict")


def test_a_bundle_is_timed_as_before(deploytool: Command, packed: Path) -> None:
    done = deploytool("bench", str(packed), "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    assert "ORT CPU       works" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--batch", "0"), "--batch 0 is not a list of batch sizes"),
        (("--batch", "1,many"), "--batch 1,many is not a list of batch sizes"),
        (("--baseline", "warp"), "there is no 'warp' to measure against"),
        (("--require", "cpu"), "--require applies to a bundle"),
        (("--build",), "--build applies to a bundle"),
    ],
)
def test_what_makes_no_sense_for_a_run(
    deploytool: Command, finished: Path, options: tuple[str, ...], said: str
) -> None:
    done = deploytool("bench", str(finished), *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (finished / "bench.json").exists()


def test_what_makes_no_sense_for_a_bundle(deploytool: Command, packed: Path) -> None:
    done = deploytool("bench", str(packed), "--compile")
    assert done.returncode == 2
    assert "--compile applies to a run" in done.stderr


def test_what_is_neither(deploytool: Command, run_copy: Path, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        done = deploytool("bench", str(place))
        assert done.returncode == 2
        assert f"{place} holds neither a bundle nor a run" in done.stderr
    (run_copy / "rewrite" / "model.onnx").write_bytes(b"another")
    done = deploytool("bench", str(run_copy))
    assert done.returncode == 2
    assert "is not as its stage made it" in done.stderr
