from __future__ import annotations

import re

import pytest

from deploytool.cli import params
from deploytool.errors import BadInput
from deploytool.spec import Fill, Range, Tensor


def test_a_range_is_parsed() -> None:
    assert params.span("--batch", "4") == Range(4, 4, 4)
    assert params.span("--batch", "1:2:3") == Range(1, 2, 3)


@pytest.mark.parametrize("texts", [["1", "8", "32"], ["1,8,32"], ["1, 8", "32"], ["1:1:8", "8:32:32"]])
def test_several_batch_sizes_are_refused_with_the_range_of_all(texts: list[str]) -> None:
    with pytest.raises(BadInput, match=r"--batch takes one size or one range, not 1.* and .*32") as raised:
        params.batch(texts)
    assert "write --batch 1:8:32" in raised.value.remedy


def test_one_batch_size_or_range_is_parsed() -> None:
    assert params.batch(["4"]) == Range(4, 4, 4)
    assert params.batch(["1:2:3"]) == Range(1, 2, 3)


@pytest.mark.parametrize("text", ["", "1:2", "-1", "0", "1:2:3:4", "1.5", "3:2:1", "two"])
def test_an_invalid_range_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=f"--batch {text}"):
        params.span("--batch", text)


@pytest.mark.parametrize(
    ("texts", "tensors"),
    [
        (["3x224x224"], [Tensor("input", ("batch", 3, 224, 224))]),
        (["image=3xHxW"], [Tensor("image", ("batch", 3, "H", "W"))]),
        (["tokens=16:int64:1000"], [Tensor("tokens", ("batch", 16), "int64", 1000)]),
        (["3x8x8:float64"], [Tensor("input", ("batch", 3, 8, 8), "float64")]),
        (["t=:int64:1000"], [Tensor("t", ("batch",), "int64", 1000)]),
        (["3x8x8", "t="], [Tensor("input", ("batch", 3, 8, 8)), Tensor("t", ("batch",))]),
        ([":float16"], [Tensor("input", ("batch",), "float16")]),
        (["3x8x8:uint8"], [Tensor("input", ("batch", 3, 8, 8), "uint8", 256)]),
        (["sound=L:int16:32768"], [Tensor("sound", ("batch", "L"), "int16", 32768)]),
        (["a=4:int8", "b=4:bool"], [Tensor("a", ("batch", 4), "int8"), Tensor("b", ("batch", 4), "bool")]),
        (["3x8x8", "7"], [Tensor("input", ("batch", 3, 8, 8)), Tensor("input_1", ("batch", 7))]),
    ],
)
def test_an_input_is_parsed(texts: list[str], tensors: list[Tensor]) -> None:
    assert params.tensors(texts) == tuple(tensors)


@pytest.mark.parametrize(
    "text", ["", "3x", "3x0x8", "3x-1", "a=b=", "3x8:int7", "3x8:int64:none", "3x8:int64:0", "3x8:int64:5:6", "3,8"]
)
def test_an_invalid_input_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=re.escape(f"--input {text}")):
        params.tensors([text])


@pytest.mark.parametrize(
    ("text", "intended"),
    [
        ("3,224,224", "3x224x224"),
        ("(3, 224, 224)", "3x224x224"),
        ("3X224X224", "3x224x224"),
        ("image:3x224x224", "image=3x224x224"),
        ("image = 3x8x8", "image=3x8x8"),
        ("-1x3x224x224", "3x224x224"),
        ("?x16:int64:9", "16:int64:9"),
        ("3x8x8:fp16", "3x8x8:float16"),
        ("3x8x8:torch.float32", "3x8x8:float32"),
        ("ids=16:long:9", "ids=16:int64:9"),
        ("t=:int", "t=:int64"),
    ],
)
def test_the_syntax_of_another_tool_is_translated_in_the_remedy(text: str, intended: str) -> None:
    with pytest.raises(BadInput) as refused:
        params.tensors([text])
    assert refused.value.remedy == f"write --input {intended}"
    assert params.tensors([intended])


def test_a_bound_that_the_type_cannot_have_is_refused() -> None:
    with pytest.raises(BadInput, match="the bound 1000 of input t is out of range for uint8"):
        params.tensors(["t=:uint8:1000"])
    with pytest.raises(BadInput, match="only integers have a bound"):
        params.tensors(["x=4:float32:7"])


def test_two_inputs_with_one_name_are_refused() -> None:
    with pytest.raises(BadInput, match="two inputs are named image"):
        params.tensors(["image=3x8x8", "image=1x8x8"])


def test_sizes_are_parsed() -> None:
    assert params.sizes(["W=1:2:3", "H=8"]) == {"W": Range(1, 2, 3), "H": Range(8, 8, 8)}
    with pytest.raises(BadInput, match="--size H"):
        params.sizes(["H"])


def test_arguments_are_parsed() -> None:
    texts = ["depth=3", "width=0.5", "plain=true", "none=null", "name=resnet", "text=a=b", 'quoted="3"', "list=[1]"]
    assert params.arguments(texts) == {
        "depth": 3,
        "width": 0.5,
        "plain": True,
        "none": None,
        "name": "resnet",
        "text": "a=b",
        "quoted": "3",
        "list": "[1]",
    }
    for text in ("depth", "=3", "two words=3"):
        with pytest.raises(BadInput, match=f"--arg {text} is not a name with a value"):
            params.arguments([text])


def test_tolerances_are_parsed() -> None:
    assert params.tolerances(["fp16=2e-3", "fp32=0.00001"]) == {"fp16": 2e-3, "fp32": 1e-5}
    for text in ("fp16=", "fp8=1e-3", "fp16=0", "fp16=-1", "fp16=2", "fp16=nan"):
        with pytest.raises(BadInput, match=f"--tolerance {text} is not a tolerance"):
            params.tolerances([text])
    for text in ("fp16", "1e-3"):
        with pytest.raises(BadInput, match=f"--tolerance {text} is not a name with a value"):
            params.tolerances([text])


def test_an_input_may_be_a_mask_or_a_range() -> None:
    mask, positions = params.tensors(["mask=H:int64:mask", "positions=16:int32:range"])
    assert mask == Tensor("mask", ("batch", "H"), "int64", 2, Fill.MASK)
    assert positions == Tensor("positions", ("batch", 16), "int32", 2, Fill.RANGE)


def test_a_range_needs_an_axis() -> None:
    with pytest.raises(BadInput, match="no axis") as refused:
        params.tensors(["t=:int64:range"])
    assert refused.value.remedy == "give it a length: --input t=128:int64:range"
