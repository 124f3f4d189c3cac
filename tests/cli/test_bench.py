"""`deploytool bench` of runs and bundles: tables, document, requirements, and refused options."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deploytool.benchmark import result
from deploytool.spec import GateOutcome
from tests.conftest import Command

QUICK = ("--threads", "1", "--seconds", "0.1")


def test_a_run_is_timed_against_the_eager_model(deploytool: Command, run_copy: Path) -> None:
    done = deploytool("bench", str(run_copy), *QUICK, "--batch", "1,2", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "tiny at batch 2, 1 thread, " in done.stdout
    assert done.stdout.count("the baseline") == 2
    assert "built, not run" in done.stdout
    assert f"Written: {run_copy / 'bench.json'}" in done.stdout
    names = ("eager", "rewrite", "build/model.plan")
    rows = [line for line in done.stdout.splitlines() if line.split()[:1] and line.split()[0] in names]
    assert [row.split()[0] for row in rows] == [*names, *names]
    assert all(len(row) <= 80 for row in rows)
    bench = result.read(run_copy)
    assert result.read_matching(run_copy) == bench
    assert (bench.threads, [sweep.batch for sweep in bench.sweeps]) == (1, [1, 2])


def test_json_is_the_content_of_bench_json(deploytool: Command, run_copy: Path) -> None:
    done = deploytool("bench", str(run_copy), *QUICK, "--json", "--baseline", "export", "--device", "cpu")
    document = json.loads(done.stdout)
    assert document["error"] is None
    assert document["bench"] == json.loads((run_copy / "bench.json").read_text())
    assert document["bench"]["baseline"] == "export"


def test_min_speedup_decides_the_exit_code(deploytool: Command, run_copy: Path) -> None:
    """The engine, which is judged first, cannot run here; without it, a noisy machine may give no verdict."""
    done = deploytool("bench", str(run_copy), *QUICK, "--min-speedup", "0.01")
    assert done.returncode == 6
    assert "build/model.plan, 0.01× the baseline: built, not run" in done.stderr
    assert "--min-speedup 0.01: open, judged by build/model.plan: built, not run" in done.stdout
    shutil.rmtree(run_copy / "build")
    done = deploytool("bench", str(run_copy), *QUICK, "--min-speedup", "1000", "--json")
    gate = json.loads(done.stdout)["bench"]["gate"]
    assert gate["outcome"] in (GateOutcome.MISSED, GateOutcome.OPEN)
    assert done.returncode == {GateOutcome.MISSED: 4, GateOutcome.OPEN: 6}[gate["outcome"]]
    assert (gate["outcome"] == GateOutcome.OPEN) == gate["reason"].startswith("no verdict")


def test_a_bundle_is_timed_like_on_a_device(deploytool: Command, packed: Path) -> None:
    done = deploytool("bench", str(packed), "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    assert "ORT CPU       works" in done.stdout


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--batch", "0"), "--batch 0 is not a list of batch sizes"),
        (("--batch", "1,many"), "--batch 1,many is not a list of batch sizes"),
        (("--baseline", "warp"), "there is no 'warp' to measure against"),
        (("--require", "cpu"), "--require applies to a bundle"),
        (("--build",), "--build applies to a bundle"),
    ],
)
def test_invalid_options_for_a_run_are_refused(
    deploytool: Command, finished: Path, options: tuple[str, ...], problem: str
) -> None:
    done = deploytool("bench", str(finished), *options)
    assert done.returncode == 2
    assert problem in done.stderr
    assert not (finished / "bench.json").exists()


def test_options_of_a_run_are_refused_for_a_bundle(deploytool: Command, packed: Path) -> None:
    done = deploytool("bench", str(packed), "--compile")
    assert done.returncode == 2
    assert "--compile applies to a run" in done.stderr


def test_a_folder_without_run_or_bundle_and_a_changed_run_are_refused(
    deploytool: Command, run_copy: Path, tmp_path: Path
) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        done = deploytool("bench", str(folder))
        assert done.returncode == 2
        assert f"{folder} holds neither a bundle nor a run" in done.stderr
    (run_copy / "rewrite" / "model.onnx").write_bytes(b"another")
    done = deploytool("bench", str(run_copy))
    assert done.returncode == 2
    assert "has changed since its stage made it" in done.stderr
