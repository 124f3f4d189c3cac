"""What the result of a cell depends on."""

from __future__ import annotations

from pathlib import Path

from deploytool.pipeline.export_options import ExportOptions
from deploytool.results.sweep import Cell
from deploytool.sweeps import keys


def test_labels_and_the_file_of_a_metric_are_inputs_of_a_cell(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels.csv").write_text("a.png,1\n")
    (tmp_path / "metrics.py").write_text("def score(outputs, targets): return 1\n")
    options = ExportOptions(
        data=tmp_path / "images", labels=tmp_path / "labels.csv", metric=f"{tmp_path / 'metrics.py'}:score"
    )
    names = {path.name for path in keys.input_paths("mixnet_s", options)}
    assert {"labels.csv", "metrics.py"} <= names
    before = keys.cell_key(Cell("c", "mixnet_s"), options)
    for file, text in (("labels.csv", "a.png,2\n"), ("metrics.py", "def score(outputs, targets): return 2\n")):
        (tmp_path / file).write_text(text)
        keys.forget_digests()
        after = keys.cell_key(Cell("c", "mixnet_s"), options)
        assert after != before
        before = after
    assert not {path.suffix for path in keys.input_paths("mixnet_s", ExportOptions(metric="top1"))} - {""}
