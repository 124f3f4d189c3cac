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


def test_plain_and_rewritten_halves_stand_side_by_side(tmp_path: Path) -> None:
    job = Job(TINY, replace(QUICK, rewrite="grouped"))
    home, given = gpu.both(job, tmp_path)
    rewritten, plain = ((home / room / "model.onnx").read_bytes() for room in ("fp16", gpu.PLAIN_HALF))
    assert rewritten != plain
    wanted = BenchOptions((1, 2), threads=1, seconds=0.2, device="cpu")
    found = run.run(home, given, wanted, job.watch)
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in gpu.rows(found)]
    assert all(len(each) == len(gpu.COLUMNS) for each in cells)
    for batch in ("1", "2"):
        timed = {each[2]: each for each in cells if each[1] == batch}
        assert {"eager", "simplify", "rewrite", "fp16", gpu.PLAIN_HALF} <= set(timed)
        assert timed["eager"][-1] == "the baseline"
        assert all(float(timed[name][3]) > 0 for name in ("eager", "fp16", gpu.PLAIN_HALF))
        assert timed["compile"][-1].startswith("unavailable")


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machine, "gpus", tuple)
    monkeypatch.setattr("sys.argv", ["gpu"])
    gpu.main()
    assert capsys.readouterr().out == "No CUDA driver answers on this machine: no GPU was timed.\n"


@pytest.mark.gpu
def test_a_gpu_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "gpu.md"
    words = ["gpu", "--models", "shufflenet_g3", "--batch", "1", "8", "--seconds", "2", "--out", str(table)]
    monkeypatch.setattr("sys.argv", words)
    gpu.main()
    text = table.read_text(encoding="utf-8")
    assert text.startswith(f"# {machine.gpus()[0].name}\n")
    assert "| cuda_graph | " in text
