"""Valid values of options are normalised, and invalid ones raise BadInput."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploytool.errors import BadInput
from deploytool.pipeline import options
from deploytool.pipeline.export_options import DECLARATIONS, ExportOptions
from deploytool.pipeline.model_options import Span
from deploytool.spec import Range, Tensor


@pytest.mark.parametrize("span", [4, (4, 4, 4), Range(4, 4, 4)])
def test_a_size_has_three_forms(span: Span) -> None:
    assert options.size_range("batch", span) == Range(4, 4, 4)


def test_a_size_fits_32_bits() -> None:
    assert options.size_range("batch", 2**31 - 1).largest == 2**31 - 1
    with pytest.raises(BadInput, match="is too large"):
        options.size_range("batch", (1, 2, 2**31))


@pytest.mark.parametrize("span", [0, (3, 2, 1), (0, 1, 2), Range(8, 4, 16)])
def test_an_invalid_range_is_refused(span: Span) -> None:
    with pytest.raises(BadInput, match=r"batch .* is not a valid range"):
        options.size_range("batch", span)


def test_every_dynamic_dimension_needs_a_range_and_no_other_word_may_have_one() -> None:
    inputs = [Tensor("image", ("batch", 3, "H", "W"))]
    assert options.sizes({"W": (1, 2, 3), "H": 8}, inputs) == {"W": Range(1, 2, 3), "H": Range(8, 8, 8)}
    with pytest.raises(BadInput, match="no size given for dynamic dimension W"):
        options.sizes({"H": 8}, inputs)
    with pytest.raises(BadInput, match="no input has a dynamic dimension batch"):
        options.sizes({"H": 8, "W": 8, "batch": 4}, inputs)


def test_a_dynamic_length_that_may_be_meant_as_a_name_gets_both_remedies() -> None:
    with pytest.raises(BadInput, match="no size given for dynamic dimension t") as refused:
        options.sizes({}, [Tensor("input", ("batch", "t"), "int64", 1000)])
    assert "--size t=" in refused.value.remedy
    assert "--input t=:int64:1000" in refused.value.remedy


def test_an_int16_input_is_refused_for_engines() -> None:
    options.for_engines(
        [Tensor("x", ("batch", 3), dtype) for dtype in ("uint8", "int8", "int64", "float64", "bool")], 18
    )
    with pytest.raises(BadInput, match="TensorRT does not support int16 inputs: x") as refused:
        options.for_engines([Tensor("x", ("batch", 3), "int16")], 18)
    assert "int32" in refused.value.remedy


def test_a_bare_shape_becomes_a_float32_input() -> None:
    tokens = Tensor("tokens", ("batch", 16), "int64", 9)
    assert options.tensors([(3, 8, 8), tokens]) == (Tensor("input", ("batch", 3, 8, 8)), tokens)


@pytest.mark.parametrize("name", ["to", "exporter", "rewrite", "io", "runner"])
def test_a_value_outside_the_choices_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=f"invalid value 'int7' for {name}"):
        options.declared(ExportOptions(**{name: "int7"}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("seed", (0, 2**63 - 1), (-1, 2**63)),
        ("opset", (18, 23), (17, 24)),
        ("images", (1, 4096), (0, 4097)),
        ("faults", (0, 99), (-1,)),
        ("seconds", (0.0, 3600.0), (-1.0, 3601.0, float("nan"))),
        ("sequence", (0, 2**63 - 1), (-1, 2**63)),
        ("min_speedup", (0.0, 99.0), (-0.1, float("nan"), float("inf"))),
    ],
)
def test_a_number_out_of_bounds_is_refused(name: str, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    for value in inside:
        options.declared(ExportOptions(**{name: value}))  # type: ignore[arg-type]
    for value in outside:
        with pytest.raises(BadInput, match=f"{name} .* is out of bounds"):
            options.declared(ExportOptions(**{name: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", DECLARATIONS)
@pytest.mark.parametrize("value", [object(), b"x", {1: 2}, [None], (name for name in "ab")], ids=type)
def test_a_value_of_no_declared_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(BadInput):
        options.declared(ExportOptions(**{name: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("seed", (4,), ("4", 1.5, True, None, [4])),
        ("images", (4, None), ("4", 1.5, False)),
        ("trust_code", (True, False), ("no", 1, None)),
        ("seconds", (1, 0.5, None), ("1", True, 10**400)),
        ("mean", (1, 0.5, [0.5, 1], (0.5,)), ("0.5", ["0.5"], [True])),
        ("resize", (0, (8, 16)), ("8", 8.0, (8,), (8, 16, 3), (8, 1.5))),
        ("outputs", ("a,b", ["a"]), (1, [1], {"a": 1})),
        ("inputs", ([(3, 8, 8)], [Tensor("t", ("batch",))]), ((3, 8, 8), ["3x8x8"], "3x8x8", [Tensor("t", (1.5,))])),  # type: ignore[arg-type]
        (
            "sizes",
            ({"H": 8}, {"H": (1, 2, 3)}, {"H": Range()}, {"H": [Range(), Range()]}),
            ({"H": "8"}, {"H": (1, 2)}, {"H": [8, 9]}, {8: 8}, "H=8"),
        ),
        ("batch", (8, (1, 2, 4), Range()), ("8", 1.5, True, (1, 2), Range(1, 2, 2.5))),  # type: ignore[arg-type]
        ("arguments", ({"a": None, "b": True, "c": "x"},), ({"a": [1]}, {1: 1}, "a=1")),
        ("tolerance", ({"fp16": 0.1, "fp32": 1},), ({"fp16": "0.1"}, {"fp16": True}, 0.1)),
        ("weights", ("w.pth", Path("w.pth"), None), ("", "a\0b", False, [])),
        ("out", ("run",), ("", 3)),
        ("classes", ("names", Path("names"), ["a", "b"], ()), ("", 3, [1])),
    ],
)
def test_types(name: str, right: tuple[object, ...], wrong: tuple[object, ...]) -> None:
    for value in right:
        options.declared(ExportOptions(**{name: value}))  # type: ignore[arg-type]
    for value in wrong:
        with pytest.raises(BadInput, match=f"{name} cannot be") as refused:
            options.declared(ExportOptions(**{name: value}))  # type: ignore[arg-type]
        assert refused.value.remedy.startswith(f"write {name} as ")


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("", ("batch", 3)),
        Tensor("x", ()),
        Tensor("x", (3, 8, 8)),
        Tensor("x", ("batch", 0)),
        Tensor("x", ("batch", -1)),
        Tensor("x", ("batch", 2**31)),
        Tensor("x", ("batch", "a b")),
        Tensor("x", ("batch", "batch")),
    ],
    ids=str,
)
def test_a_shape_has_the_batch_and_sizes(tensor: Tensor) -> None:
    with pytest.raises(BadInput):
        options.tensors([tensor])


@pytest.mark.parametrize("given", ["", " ", ",", ["", " "]])
def test_names_without_a_name_are_refused(given: str | list[str]) -> None:
    with pytest.raises(BadInput, match=r"--output .* contains no name"):
        options.names("--output", given)


def test_invalid_tolerances_are_refused() -> None:
    assert options.tolerance({"fp16": 1e-3}) == {"fp16": 1e-3}
    for name, value in (("fp8", 1e-3), ("fp16", 0.0), ("fp16", 2.0), ("fp16", float("nan"))):
        with pytest.raises(BadInput, match="is not a tolerance"):
            options.tolerance({name: value})


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ((), ()),
        ("auto", ("auto",)),
        ("stage2.0, classifier,stage2.0,", ("stage2.0", "classifier")),
        (["a,b", "c"], ("a,b", "c")),
    ],
)
def test_names_are_split_and_deduplicated(value: str | list[str], names: tuple[str, ...]) -> None:
    assert options.names("--output", value) == options.kept("--keep-fp32", value) == names


@pytest.mark.parametrize("value", ["auto,classifier", ("classifier", "auto")])
def test_auto_and_names_are_mutually_exclusive(value: str | tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match="auto and names are mutually exclusive"):
        options.kept("--keep-fp32", value)


def test_the_digest_of_a_file_or_folder_changes_with_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    file, folder = options.file(tmp_path / "a"), options.folder(tmp_path)
    (tmp_path / "a").write_text("22")
    assert options.file(tmp_path / "a").digest != file.digest
    assert options.folder(tmp_path).digest != folder.digest
    with pytest.raises(BadInput, match="there is no file"):
        options.file(tmp_path)
    with pytest.raises(BadInput, match="there is no folder"):
        options.folder(tmp_path / "a")
