"""Tests of binding inputs to the parameters of forward."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import deploytool
from deploytool.errors import BadInput
from deploytool.loading.module import arguments
from deploytool.spec import Tensor


def with_defaults(a: str, b: str = "-", c: str = "-") -> str:
    return f"{a}{b}{c}"


def one_parameter(x: str) -> str:
    return x


def var_positional(*inputs: str) -> str:
    return "".join(inputs)


def keyword_only(a: str, *, mask: str = "-") -> str:
    return f"{a}{mask}"


def var_keyword(a: str, **more: str) -> str:
    return a + "".join(f"{name}={value}" for name, value in sorted(more.items()))


def only_var_keyword(**named: str) -> str:
    return "".join(f"{name}={value}" for name, value in sorted(named.items()))


def positional_and_var_positional(a: str, *rest: str) -> str:
    return a + "".join(rest)


def parameter_named_input(input: str, other: str) -> str:
    return f"{input}{other}"


@pytest.mark.parametrize(
    ("function", "names", "result"),
    [
        (with_defaults, ["b", "a"], "ab-"),
        (with_defaults, ["c", "a"], "a-c"),
        (with_defaults, ["a", "b", "c"], "abc"),
        (with_defaults, ["input", "input_1"], "input" + "input_1" + "-"),
        (with_defaults, ["b", "input"], "input" + "b-"),
        (one_parameter, ["x"], "x"),
        (one_parameter, ["image"], "image"),
        (var_positional, ["image", "tokens"], "imagetokens"),
        (keyword_only, ["mask", "a"], "amask"),
        (var_keyword, ["pixels", "a"], "apixels=pixels"),
        (only_var_keyword, ["x"], "x=x"),
        (only_var_keyword, ["mask", "input"], "input=inputmask=mask"),
        (positional_and_var_positional, ["left", "right"], "leftright"),
        (parameter_named_input, ["other", "input"], "inputother"),
    ],
)
def test_inputs_bind_to_parameters_by_name(function: Callable[..., str], names: list[str], result: str) -> None:
    bound = arguments.bind(function, names)
    assert bound.call(function, {name: name for name in names}) == result


@pytest.mark.parametrize(
    ("function", "names", "unknown"),
    [
        (with_defaults, ["a", "d"], "d"),
        (with_defaults, ["image"], "image"),
        (with_defaults, ["left", "right"], "left"),
        (keyword_only, ["a", "masks"], "masks"),
        (parameter_named_input, ["input", "image"], "image"),
    ],
)
def test_an_unknown_name_is_refused_with_the_list_of_parameters(
    function: Callable[..., Any], names: list[str], unknown: str
) -> None:
    with pytest.raises(BadInput, match=f"forward has no parameter {unknown}") as caught:
        arguments.bind(function, names)
    assert inspect.signature(function).parameters.keys() <= set(re.findall(r"\w+", caught.value.remedy))


def test_the_model_itself_raises_for_more_inputs_than_parameters() -> None:
    bound = arguments.bind(with_defaults, ["input", "input_1", "input_2", "input_3"])
    with pytest.raises(TypeError):
        bound.call(with_defaults, {name: name for name in ("input", "input_1", "input_2", "input_3")})


@pytest.mark.integration
@pytest.mark.parametrize(
    ("names", "exporter"),
    [
        *((names, "torchscript") for names in (("b", "a"), ("mask", "a"))),
        *((names, "dynamo") for names in (("b", "a"), ("mask", "a"))),
    ],
)
def test_the_inputs_of_the_graph_have_these_names(names: tuple[str, str], exporter: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("""
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.ones(8))

    def forward(self, a, b=None, *, mask=None):
        other = b if mask is None else mask * 3
        return a * self.bias - 2 * other
""")
    run = deploytool.export(
        f"{tmp_path / 'net.py'}:Net",
        inputs=[Tensor(name, ("batch", 8)) for name in names],
        exporter=exporter,
        quick=True,
        to="onnx",
        out=tmp_path / "run",
    ).check()
    values = {
        "a": np.full((2, 8), 5, np.float32),
        "b": np.ones((2, 8), np.float32),
        "mask": np.ones((2, 8), np.float32),
    }
    assert run.onnx is not None
    (output,) = ort.InferenceSession(run.onnx).run(None, {name: values[name] for name in names})
    np.testing.assert_array_equal(output, np.full((2, 8), -1 if "mask" in names else 3))


def test_parts_form_a_list_a_tuple_or_a_dict() -> None:
    def forward(images: list[int], pair: tuple[int, int], batch: dict[str, int]) -> Any:
        return images, pair, batch

    names = ["images.0", "images.1", "pair.0", "pair.1", "batch.mask"]
    bound = arguments.bind(forward, names)
    assert not bound.exact
    assert bound.call(forward, dict(zip(names, range(5), strict=True))) == ([0, 1], (2, 3), {"mask": 4})


def test_parts_may_be_nested() -> None:
    def forward(past: Any) -> Any:
        return past

    names = ["past.0.key", "past.0.value", "past.1.key", "past.1.value"]
    bound = arguments.bind(forward, names)
    called = bound.call(forward, dict(zip(names, range(4), strict=True)))
    assert called == [{"key": 0, "value": 1}, {"key": 2, "value": 3}]


@pytest.mark.parametrize("names", [["images.1", "images.2"], ["images.1", "images.0"], ["images.0", "images.mask"]])
def test_positions_of_a_list_are_counted_from_zero(names: list[str]) -> None:
    with pytest.raises(BadInput, match="parts of images") as refused:
        arguments.bind(lambda images: images, names)
    assert "images.0, images.1" in refused.value.remedy


def test_an_input_is_not_a_whole_and_a_part_of_it() -> None:
    with pytest.raises(BadInput, match="images is an input"):
        arguments.bind(lambda images: images, ["images", "images.0"])


def test_constants_are_passed_by_name_and_shift_no_input() -> None:
    def forward(x: int, train: bool, y: int, *, flag: bool = False) -> Any:
        return x, train, y, flag

    bound = arguments.bind(forward, ["x", "y"], {"train": False, "flag": True})
    assert not bound.exact
    assert bound.positional == ("x",)
    assert bound.call(forward, {"x": 1, "y": 2}) == (1, False, 2, True)
    unnamed = arguments.bind(forward, ["input", "input_1"], {"train": False})
    assert unnamed.call(forward, {"input": 1, "input_1": 2}) == (1, False, 2, False)


def test_a_constant_that_forward_does_not_take_is_refused() -> None:
    with pytest.raises(BadInput, match="no parameter use_cache, which --forward sets") as refused:
        arguments.bind(lambda x: x, ["x"], {"use_cache": False})
    assert refused.value.remedy == "its parameters are: x"
    arguments.bind(lambda x, **kwargs: x, ["x"], {"use_cache": False})
