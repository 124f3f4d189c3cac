"""Inputs go to the parameters of their names; what lies is refused."""

from __future__ import annotations

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


def plain(a: str, b: str = "-", c: str = "-") -> str:
    return f"{a}{b}{c}"


def only(x: str) -> str:
    return x


def starred(*given: str) -> str:
    return "".join(given)


def keyed(a: str, *, mask: str = "-") -> str:
    return f"{a}{mask}"


def anything(a: str, **more: str) -> str:
    return a + "".join(f"{name}={value}" for name, value in sorted(more.items()))


def first_then_star(a: str, *rest: str) -> str:
    return a + "".join(rest)


def usual(input: str, other: str) -> str:
    return f"{input}{other}"


@pytest.mark.parametrize(
    ("function", "names", "said"),
    [
        (plain, ["b", "a"], "ab-"),
        (plain, ["c", "a"], "a-c"),
        (plain, ["a", "b", "c"], "abc"),
        (plain, ["input", "input_1"], "input" + "input_1" + "-"),
        (plain, ["b", "input"], "input" + "b-"),
        (only, ["x"], "x"),
        (only, ["image"], "image"),
        (starred, ["image", "tokens"], "imagetokens"),
        (keyed, ["mask", "a"], "amask"),
        (anything, ["pixels", "a"], "apixels=pixels"),
        (first_then_star, ["left", "right"], "leftright"),
        (usual, ["other", "input"], "inputother"),
    ],
)
def test_inputs_go_to_the_parameters_of_their_names(function: Callable[..., str], names: list[str], said: str) -> None:
    bound = arguments.bind(function, names)
    assert bound.call(function, {name: name for name in names}) == said


@pytest.mark.parametrize(
    ("function", "names", "lost"),
    [
        (plain, ["a", "d"], "d"),
        (plain, ["image"], "image"),
        (plain, ["left", "right"], "left"),
        (keyed, ["a", "masks"], "masks"),
        (usual, ["input", "image"], "image"),
    ],
)
def test_a_name_that_is_no_parameter_is_refused_with_those_there_are(
    function: Callable[..., Any], names: list[str], lost: str
) -> None:
    with pytest.raises(BadInput, match=f"forward has no parameter {lost}") as refusal:
        arguments.bind(function, names)
    assert refusal.value.remedy.startswith("name the inputs as forward does: ")


def test_more_inputs_than_parameters_reach_the_model_which_says_so_itself() -> None:
    bound = arguments.bind(plain, ["input", "input_1", "input_2", "input_3"])
    with pytest.raises(TypeError):
        bound.call(plain, {name: name for name in ("input", "input_1", "input_2", "input_3")})


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("names", [("b", "a"), ("a", "b"), ("mask", "a")])
def test_the_graph_takes_them_by_these_names(names: tuple[str, str], exporter: str, tmp_path: Path) -> None:
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
    (got,) = ort.InferenceSession(run.onnx).run(None, {name: values[name] for name in names})
    np.testing.assert_array_equal(got, np.full((2, 8), -1 if "mask" in names else 3))
