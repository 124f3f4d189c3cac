"""What the result of a cell depends on."""

from __future__ import annotations

from pathlib import Path

from deploytool.pipeline.export_options import INPUT_PATHS, ExportOptions
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


def test_every_path_of_an_export_is_an_input_of_a_cell(tmp_path: Path) -> None:
    """What a cell reads decides whether it is made again, and is sent to workers that do not see it."""
    taken = {name: tmp_path / name for name in INPUT_PATHS}
    for path in taken.values():
        path.write_text("1")
    assert {"weights", "data", "calibration", "classes"} <= taken.keys()
    assert not {"out", "junit"} & taken.keys()
    options = ExportOptions(**taken)  # type: ignore[arg-type]  # every one of them is a path
    assert set(taken.values()) <= set(keys.input_paths("mixnet_s", options))
    for path in taken.values():
        keys.forget_digests()
        before = keys.cell_key(Cell("c", "mixnet_s"), options)
        path.write_text("2")
        keys.forget_digests()
        assert keys.cell_key(Cell("c", "mixnet_s"), options) != before


def test_the_images_of_a_table_and_the_shards_of_an_index_are_inputs(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "a.safetensors"):
        (tmp_path / name).write_text(name)
    for name, image in (("data.csv", "1.png"), ("calibration.csv", "2.png")):
        (tmp_path / name).write_text(f"input\n{image}\n")
    (tmp_path / "index.json").write_text('{"weight_map": {"w": "a.safetensors"}}')
    options = ExportOptions(
        data=tmp_path / "data.csv", calibration=tmp_path / "calibration.csv", weights=tmp_path / "index.json"
    )
    names = {path.name for path in keys.input_paths("mixnet_s", options)}
    assert {"1.png", "2.png", "a.safetensors"} <= names
