from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deploytool.benchmark import run
from deploytool.benchmark.run import BenchOptions
from deploytool.host import machine
from deploytool.spec import Job
from tests.bench import gpu
from tests.conftest import QUICK, TINY


def test_original_and_rewritten_fp16_graphs_are_both_timed(tmp_path: Path) -> None:
    job = Job(TINY, replace(QUICK, rewrite="grouped"))
    run_folder, artifacts = gpu.run_with_original(job, tmp_path)
    rewritten, original = ((run_folder / stage / "model.onnx").read_bytes() for stage in ("fp16", gpu.FP16_ORIGINAL))
    assert rewritten != original
    options = BenchOptions((1, 2), threads=1, seconds=0.2, device="cpu")
    bench = run.run(run_folder, artifacts, options, job.watch)
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in gpu.rows(bench)]
    assert all(len(row) == len(gpu.COLUMNS) for row in cells)
    for batch in ("1", "2"):
        timed = {row[2]: row for row in cells if row[1] == batch}
        assert {"eager", "simplify", "rewrite", "fp16", gpu.FP16_ORIGINAL} <= set(timed)
        assert timed["eager"][-1] == "the baseline"
        assert all(float(timed[name][3]) > 0 for name in ("eager", "fp16", gpu.FP16_ORIGINAL))
        assert timed["compile"][-1].startswith("unavailable")


def test_without_a_gpu_nothing_is_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machine, "gpus", tuple)
    monkeypatch.setattr("sys.argv", ["gpu"])
    gpu.main()
    assert "no GPU was timed" in capsys.readouterr().out


@pytest.mark.gpu
def test_a_gpu_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "gpu.md"
    arguments = ["gpu", "--models", "shufflenet_g3", "--batch", "1", "8", "--seconds", "2", "--out", str(table)]
    monkeypatch.setattr("sys.argv", arguments)
    gpu.main()
    text = table.read_text(encoding="utf-8")
    assert text.startswith(f"# {machine.gpus()[0].name}\n")
    assert "| cuda_graph | " in text
