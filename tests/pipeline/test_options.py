"""What a caller may ask for, and what it hears of what makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploytool.errors import BadInput
from deploytool.pipeline import options
from deploytool.pipeline.export_options import ExportOptions, Span
from deploytool.spec import Range, Tensor


@pytest.mark.parametrize("asked", [4, (4, 4, 4), Range(4, 4, 4)])
def test_a_size_in_three_spellings(asked: Span) -> None:
    assert options.size_range("batch", asked) == Range(4, 4, 4)


@pytest.mark.parametrize("asked", [0, (3, 2, 1), (0, 1, 2), Range(8, 4, 16)])
def test_no_sizes(asked: Span) -> None:
    with pytest.raises(BadInput, match=r"batch .* does not grow"):
        options.size_range("batch", asked)


def test_every_free_size_needs_a_range_and_nothing_else_has_one() -> None:
    inputs = [Tensor("image", ("batch", 3, "H", "W"))]
    assert options.sizes({"W": (1, 2, 3), "H": 8}, inputs) == {"W": Range(1, 2, 3), "H": Range(8, 8, 8)}
    with pytest.raises(BadInput, match="nobody says how large W is"):
        options.sizes({"H": 8}, inputs)
    with pytest.raises(BadInput, match="no input has a free size batch"):
        options.sizes({"H": 8, "W": 8, "batch": 4}, inputs)


def test_a_length_that_may_be_meant_as_a_name_gets_both_remedies() -> None:
    with pytest.raises(BadInput, match="nobody says how large t is") as refused:
        options.sizes({}, [Tensor("input", ("batch", "t"), "int64", 1000)])
    assert "--size t=" in refused.value.remedy
    assert "--input t=:int64:1000" in refused.value.remedy


def test_engines_take_no_sixteen_bit_integers() -> None:
    options.for_engines([Tensor("x", ("batch", 3), dtype) for dtype in ("uint8", "int8", "int64", "float64", "bool")])
    with pytest.raises(BadInput, match="TensorRT takes no input of int16: x") as refused:
        options.for_engines([Tensor("x", ("batch", 3), "int16")])
    assert "int32" in refused.value.remedy


def test_a_shape_is_an_input_of_floats() -> None:
    whole = Tensor("tokens", ("batch", 16), "int64", 9)
    assert options.tensors([(3, 8, 8), whole]) == (Tensor("input", ("batch", 3, 8, 8)), whole)


@pytest.mark.parametrize("name", ["to", "exporter", "rewrite", "io", "runner"])
def test_a_value_that_is_no_choice(name: str) -> None:
    with pytest.raises(BadInput, match=f"invalid value 'int7' for {name}"):
        options.declared(ExportOptions(**{name: "int7"}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("seed", (0, 2**63 - 1), (-1, 2**63)),
        ("opset", (18, 20), (17, 21)),
        ("images", (1, 4096), (0, 4097)),
        ("faults", (0, 99), (-1,)),
        ("seconds", (0.0, 3600.0), (-1.0, 3601.0, float("nan"))),
        ("sequence", (0, 2**63 - 1), (-1, 2**63)),
        ("min_speedup", (0.0, 99.0), (-0.1, float("nan"), float("inf"))),
    ],
)
def test_bounds(name: str, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    for value in inside:
        options.declared(ExportOptions(**{name: value}))  # type: ignore[arg-type]
    for value in outside:
        with pytest.raises(BadInput, match=f"{name} .* is out of bounds"):
            options.declared(ExportOptions(**{name: value}))  # type: ignore[arg-type]


def test_tolerances() -> None:
    assert options.tolerance({"fp16": 1e-3}) == {"fp16": 1e-3}
    for name, value in (("fp8", 1e-3), ("fp16", 0.0), ("fp16", 2.0), ("fp16", float("nan"))):
        with pytest.raises(BadInput, match="is no tolerance"):
            options.tolerance({name: value})


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("", ()),
        ((), ()),
        ("auto", ("auto",)),
        ("stage2.0, classifier,stage2.0,", ("stage2.0", "classifier")),
        (["a,b", "c"], ("a,b", "c")),
    ],
)
def test_names(given: str | list[str], names: tuple[str, ...]) -> None:
    assert options.names(given) == options.keep_fp32(given) == names


@pytest.mark.parametrize("given", ["auto,classifier", ("classifier", "auto")])
def test_a_search_excludes_names(given: str | tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match="asks for a search and names what it should find"):
        options.keep_fp32(given)


def test_files_and_folders_go_by_what_is_in_them(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    one, whole = options.file(tmp_path / "a"), options.folder(tmp_path)
    (tmp_path / "a").write_text("22")
    assert options.file(tmp_path / "a").digest != one.digest
    assert options.folder(tmp_path).digest != whole.digest
    with pytest.raises(BadInput, match="there is no file"):
        options.file(tmp_path)
    with pytest.raises(BadInput, match="there is no folder"):
        options.folder(tmp_path / "a")
