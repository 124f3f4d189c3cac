from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploytool.errors import BadInput
from deploytool.pipeline.export_options import ExportOptions
from deploytool.spec import Precision, Range, Stage, Tensor
from deploytool.sweeps import serial, shared
from deploytool.sweeps.table import SweepTable, cells

TWO = ("shufflenet_g3", "mixnet_s")


def test_the_cells_are_the_product_of_the_words() -> None:
    table = SweepTable(models=TWO, exporters=("dynamo", "torchscript"), targets=("orin", "rtx40", "none"))
    found = cells(table, ExportOptions())
    assert len(found) == len({cell.name for cell in found}) == 2 * 2 * 3
    assert [cell.name for cell in found][:2] == ["shufflenet_g3-fp16-dynamo-orin", "shufflenet_g3-fp16-dynamo-rtx40"]
    assert {cell.target for cell in found} == {"orin", "rtx40", ""}


def test_an_fp32_graph_has_no_engine_and_is_made_once() -> None:
    found = cells(SweepTable(models=TWO[:1], precisions=("fp32", "fp16"), targets=("orin", "rtx40")), ExportOptions())
    assert [(cell.precision, cell.target) for cell in found] == [
        (Precision.FP32, ""),
        (Precision.FP16, "orin"),
        (Precision.FP16, "rtx40"),
    ]


def test_names_stay_when_words_are_added() -> None:
    few = cells(SweepTable(models=TWO[:1], batches=(8,), quick=True), ExportOptions())
    many = cells(SweepTable(models=TWO, batches=("1:4:8", 8), targets=("none", "orin"), quick=True), ExportOptions())
    assert few[0].name == "shufflenet_g3-fp16-b8-quick"
    assert few[0] in many


def test_files_of_one_name_make_cells_of_different_names(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "w.pth" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(b"")
    found = cells(SweepTable(models=TWO[:1], weights=paths), ExportOptions())
    assert len({cell.name for cell in found}) == 2
    one = cells(SweepTable(models=TWO, weights=(f"mixnet_s={paths[0]}",)), ExportOptions())
    assert [cell.weights for cell in one] == ["", str(paths[0])]


def test_excluded_cells_are_left_out() -> None:
    words = SweepTable(models=TWO, targets=("orin", "rtx40"), exclude=("model=mix*,target=orin",))
    assert {(cell.model, cell.target) for cell in cells(words, ExportOptions())} == {
        ("shufflenet_g3", "orin"),
        ("shufflenet_g3", "rtx40"),
        ("mixnet_s", "rtx40"),
    }


def test_an_exclusion_that_leaves_out_no_cell_is_said() -> None:
    def remarks(*exclude: str, **words: tuple[str, ...]) -> list[str]:
        said: list[str] = []
        cells(SweepTable(**{"models": TWO, "exclude": exclude, **words}), ExportOptions(), said.append)  # type: ignore[arg-type]
        return said

    assert remarks("model=mixnet_s", "model=mix*") == []
    assert remarks("model=mixnet") == ["exclude 'model=mixnet' leaves out no cell: did you mean model=mixnet_s?"]
    assert remarks("model=resnet50") == ["exclude 'model=resnet50' leaves out no cell: the sweep has no such model"]
    assert remarks("model=mix*,target=orin") == ["exclude 'model=mix*,target=orin' leaves out no cell"]
    assert remarks("target=orin", targets=("orin", "rtx40")) == []
    assert remarks("model=mix*,batch=1:8:32") == []


def test_shared_options_are_the_defaults_of_words() -> None:
    options = ExportOptions(exporter="dynamo", batch=(1, 2, 4), quick=True, targets="orin", to="fp16")
    (cell,) = cells(SweepTable(models=TWO[:1]), options)
    assert (cell.exporter, cell.batch, cell.quick, cell.target) == ("dynamo", Range(1, 2, 4), True, "orin")
    assert shared.options_of(cell, options) == ExportOptions(
        exporter="dynamo", batch=Range(1, 2, 4), quick=True, targets=("orin",)
    )


@pytest.mark.parametrize(
    ("words", "problem", "remedy"),
    [
        ({"models": ("mixnet",)}, "there is no model 'mixnet'", "mixnet_s|lists all"),
        ({"targets": ("orn",)}, "there is no target 'orn'", "did you mean orin"),
        ({"exporters": ("dynamos",)}, "there is no exporter 'dynamos'", "did you mean dynamo"),
        ({"precisions": ("int9",)}, "there is no precision 'int9'", "choose from fp32, fp16"),
        ({"precisions": ("int8",)}, "int8 is no precision of the table", r'precision = "int8" below \[export\]'),
        ({"exclude": ("target=oron",)}, "exclude 'target=oron': there is no target 'oron'", "did you mean orin"),
        ({"exclude": ("model=*,precision=int8",)}, "there is no precision 'int8'", "choose from fp32, fp16"),
        ({"batches": ("1:2",)}, "there is no batch '1:2'", "1:8:32"),
        ({"exclude": ("modell=x",)}, "there is no word 'modell'", "did you mean model"),
        ({"exclude": ("orin",)}, "exclude 'orin'", "target=orin"),
        ({"exclude": ("model=*",)}, "the sweep is empty", "exclude"),
        ({"models": ()}, "names no model", "models ="),
        ({"models": ("net.py:make",)}, "there is no file net.py", "check"),
        ({"models": ("net.onnx",)}, "there is no file net.onnx", "check"),
        ({"weights": ("none.pth",)}, "there is no file none.pth", "check"),
        ({"weights": ("",)}, "`weights` has an empty path", "leave `weights` out"),
        ({"data": (" ",)}, "`data` has an empty path", "leave `data` out"),
        ({"weights": ("other=none.pth",)}, "names no model", "choose from mixnet_s"),
    ],
)
def test_an_unknown_word_is_one_line(words: dict[str, tuple[str, ...]], problem: str, remedy: str) -> None:
    with pytest.raises(BadInput, match=problem) as caught:
        cells(SweepTable(**{"models": ("mixnet_s",), **words}), ExportOptions())  # type: ignore[arg-type]
    assert re.search(remedy, caught.value.remedy)


def test_options_travel_as_json() -> None:
    options = ExportOptions(
        inputs=(Tensor("image", ("batch", 3, 32, "W")), (3, 8)),
        sizes={"W": (1, 2, 3), "H": Range(1, 2, 4)},
        weights=Path("w.pth"),
        arguments={"classes": 10},
        crop=(3, 4),
        tolerance={"fp16": 1e-3},
        mean=0.5,
    )
    again = serial.decode(serial.encode(options))
    assert serial.encode(again) == serial.encode(options)
    assert (again.inputs, again.sizes, again.crop) == (options.inputs, options.sizes, options.crop)
    assert again.weights == "w.pth"
    with pytest.raises(BadInput, match="no option 'evil'"):
        serial.decode({"evil": 1})


def test_cells_that_share_stages_are_grouped() -> None:
    words = SweepTable(models=TWO, exporters=("dynamo", "torchscript"), targets=("orin", "rtx40"), quick=True)
    table = cells(words, ExportOptions())
    shares = shared.plan(table, ExportOptions())
    graphs = [group for group in shares.groups.values() if Stage.EXPORT in group.stages]
    sources = [group for group in shares.groups.values() if Stage.EXPORT not in group.stages]
    assert (len(graphs), len(sources)) == (4, 2)
    assert all(shares.groups[shares.first[cell.name]] in graphs for cell in table)
    assert {group.after for group in graphs} == {group.key for group in sources}
    assert not any(group.options.targets for group in graphs)


def test_an_fp32_cell_has_no_options_for_what_comes_after_its_graph() -> None:
    """Below [export] they hold for every cell: an export with --to onnx refuses each of them."""
    options = ExportOptions(
        io="fp16",
        keep_fp32="stem",
        precision="int8,bf16",
        calibration="c",
        keep="head",
        pack=True,
        trt=True,
        quick=True,
    )
    words = SweepTable(models=TWO[:1], precisions=("fp32", "fp16"), targets=("orin",), quick=True)
    wide, half = (shared.options_of(cell, options) for cell in cells(words, options))
    assert wide == ExportOptions(to="onnx", quick=True)
    assert (half.calibration, half.pack, half.io) == ("c", True, "fp16")
    pixels = shared.options_of(cells(words, options)[0], ExportOptions(io="uint8"))
    assert pixels.io == "uint8"


def test_shared_stages_build_no_engine_whose_weights_could_be_left_out() -> None:
    words = SweepTable(models=TWO[:1], targets=("orin", "this"), quick=True)
    options = ExportOptions(strip_weights=True)
    (group,) = shared.plan(cells(words, options), options).groups.values()
    assert not group.options.strip_weights


def test_one_cell_shares_nothing_unless_it_is_timed() -> None:
    quick = cells(SweepTable(models=TWO, quick=True), ExportOptions())
    assert not shared.plan(quick, ExportOptions()).groups
    timed = cells(SweepTable(models=TWO), ExportOptions())
    assert len(shared.plan(timed, ExportOptions()).groups) == 2


def test_exporters_alone_share_their_source() -> None:
    table = cells(SweepTable(models=TWO[:1], exporters=("dynamo", "torchscript"), quick=True), ExportOptions())
    shares = shared.plan(table, ExportOptions())
    (group,) = shares.groups.values()
    assert Stage.EXPORT not in group.stages
    assert set(shares.first.values()) == {group.key}
