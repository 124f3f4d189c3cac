"""Composite calls step by step: they mean what PyTorch means, and are rounded as often as the exported graph rounds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

from deploytool.parity import elementary, noise

Call = Callable[[torch.Tensor], torch.Tensor]
MASK = torch.ones(16, 16, dtype=torch.bool).tril()
HEADS = nn.MultiheadAttention(16, 2, batch_first=True, dtype=torch.float64).eval().requires_grad_(False)
FREE = {  # operators that only move numbers, or make the constants of others
    *("Constant", "Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Shape", "Concat", "Slice", "Gather"),
    *("Cast", "Split", "Expand", "ConstantOfShape", "ReduceProd", "Pad", "Equal", "If", "Flatten", "IsNaN", "Where"),
}

UNSEEN = ("rms norm", "expm1", "addcdiv", "attention to nothing", "response norm")  # not exported, or behind an If


def weight(x: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.linspace(0.5, 1.5, int(np.prod(shape)), dtype=x.dtype).reshape(shape)


def heads(x: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = HEADS.to(x.dtype)(x[:, 0], x[:, 0], x[:, 0], attn_mask=~MASK)[0]
    return made


CALLS: dict[str, Call] = {
    "gelu": functional.gelu,
    "gelu by tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "silu in place": lambda x: functional.silu(x.clone(), inplace=True),
    "mish": functional.mish,
    "glu": lambda x: functional.glu(x, 1),
    "softsign": functional.softsign,
    "tanhshrink": functional.tanhshrink,
    "logsigmoid": functional.logsigmoid,
    "log1p": lambda x: x.abs().log1p(),
    "expm1": torch.expm1,
    "rsqrt": lambda x: (x.abs() + 0.1).rsqrt(),
    "addcmul": lambda x: torch.addcmul(x, x, x.flip(1), value=0.5),
    "addcdiv": lambda x: torch.addcdiv(x, x, x.abs() + 1),
    "lerp": lambda x: torch.lerp(x, x.flip(1), 0.3),
    "linear": lambda x: functional.linear(x, weight(x, 5, 16), weight(x, 5)),
    "linear of matrices": lambda x: functional.linear(x[:, 0, 0], weight(x, 5, 16), weight(x, 5)),
    "group norm": lambda x: functional.group_norm(x, 2, weight(x, 8), weight(x, 8)),
    "group norm alone": lambda x: functional.group_norm(x, 4),
    "rms norm": lambda x: functional.rms_norm(x, (16,), weight(x, 16), 1e-6),
    "var": lambda x: x.var(1),
    "var of all": lambda x: torch.var(x, False),
    "std": lambda x: x.std((2, 3), keepdim=True),
    "std of the population": lambda x: torch.std(x, dim=2, correction=0),
    "normalize": functional.normalize,
    "normalize by sums": lambda x: functional.normalize(x, 1, 2, 1e-6),
    "cosine": lambda x: functional.cosine_similarity(x, x.flip(1)),
    "attention": lambda x: functional.scaled_dot_product_attention(x, x.flip(2), x),
    "attention to what was": lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True),
    "attention by a mask": lambda x: functional.scaled_dot_product_attention(x, x, x, MASK, scale=0.2),
    "attention by a bias": lambda x: functional.scaled_dot_product_attention(x, x, x, weight(x, 16, 16)),
    "attention to nothing": lambda x: functional.scaled_dot_product_attention(x, x, x, MASK & False),
    "heads": heads,
    "response norm": lambda x: functional.local_response_norm(x, 3),
}


class Counting(noise._Elementary):
    """Counts the calls that give a number that was not there before."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def result(self, name: str, func: Callable[..., Any], args: Any, named: Any) -> Any:
        made = super().result(name, func, args, named)
        given = {each.untyped_storage().data_ptr() for each in args if isinstance(each, torch.Tensor)}
        fresh = isinstance(made, torch.Tensor) and made.is_floating_point()
        self.count += fresh and bool(given) and made.untyped_storage().data_ptr() not in given
        return made


def counted(call: Call, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    with torch.inference_mode(), Counting() as mode:
        made = call(x)
    return made, mode.count


def rounding(graph: onnx.GraphProto) -> list[str]:
    """The operators that compute with what the graph is given."""
    given, found = {graph.input[0].name}, list[str]()
    for node in graph.node:
        if node.op_type != "Shape" and given & set(node.input):
            given |= set(node.output)
            found += [node.op_type] if node.op_type not in FREE else []
    return found


@pytest.mark.parametrize("name", CALLS)
def test_a_call_step_by_step_means_the_same(name: str) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 8, 16, 16)))
    with torch.inference_mode():
        whole = CALLS[name](x)
    steps, _ = counted(CALLS[name], x)
    assert steps.shape == whole.shape
    np.testing.assert_allclose(steps, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in UNSEEN])
def test_it_has_as_many_steps_as_the_exported_graph_has_operators(name: str, tmp_path: Path) -> None:
    """Two more or less are factors that one of both folds, or that are ones."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return CALLS[name](x)

    written, x = tmp_path / "net.onnx", torch.rand(2, 8, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Net().eval(), (x,), written, dynamo=False, opset_version=18)
    operators = rounding(onnx.load(written).graph)
    _, ours = counted(CALLS[name], x)
    assert abs(ours - len(operators)) <= 2, (ours, operators)


def test_every_entry_of_the_table_is_tried() -> None:
    x = torch.rand(2, 8, 16, 16)
    heard = set[str]()

    class Hearing(noise._Elementary):
        def result(self, name: str, func: Callable[..., Any], args: Any, named: Any) -> Any:
            heard.add(name)
            return super().result(name, func, args, named)

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            heard.add(getattr(func, "__name__", ""))
            return super().__torch_function__(func, types, args, kwargs)

    with torch.inference_mode(), Hearing():
        for call in CALLS.values():
            call(x)
    assert heard >= set(elementary.STEPS)


@pytest.mark.parametrize("name", ["heads", "normalize", "gelu", "group norm", "std"])
def test_fp16_rounds_every_step(name: str) -> None:
    """Rounded once, the result would be the nearest FP16 number of the exact one."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 8, 16, 16)).astype(np.float16)).float()
    with torch.inference_mode():
        whole = CALLS[name](x).half().float()
    with torch.inference_mode(), noise._Rounding(noise._nearest):
        steps = CALLS[name](x)
    assert torch.equal(steps, steps.half().float())
    assert not torch.equal(steps, whole)
    np.testing.assert_allclose(steps, whole, rtol=2e-2, atol=5e-3)
