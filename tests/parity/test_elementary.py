"""Decomposed calls compute what PyTorch computes, and are rounded as often as the exported graph rounds."""

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

from deploytool.parity import elementary, noise, rounding

Call = Callable[[torch.Tensor], torch.Tensor]
MASK = torch.ones(16, 16, dtype=torch.bool).tril()
HEADS = nn.MultiheadAttention(16, 2, batch_first=True, dtype=torch.float64).eval().requires_grad_(False)
FREE = {  # operators that do not round: they move values, or make constants
    *("Constant", "Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Shape", "Concat", "Slice", "Gather"),
    *("Cast", "Split", "Expand", "ConstantOfShape", "ReduceProd", "Pad", "Equal", "If", "Flatten", "IsNaN", "Where"),
}

NOT_COUNTED = ("rms norm", "expm1", "addcdiv", "attention to nothing", "response norm")  # not exported, or in an If


def weight(x: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.linspace(0.5, 1.5, int(np.prod(shape)), dtype=x.dtype).reshape(shape)


def heads(x: torch.Tensor) -> torch.Tensor:
    attended: torch.Tensor = HEADS.to(x.dtype)(x[:, 0], x[:, 0], x[:, 0], attn_mask=~MASK)[0]
    return attended


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


class Counting(noise._ElementaryMode):
    """Counts the calls that compute new floating-point values."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def result(self, name: str, func: Callable[..., Any], args: Any, named: Any) -> Any:
        result = super().result(name, func, args, named)
        arguments = {value.untyped_storage().data_ptr() for value in args if isinstance(value, torch.Tensor)}
        computed = isinstance(result, torch.Tensor) and result.is_floating_point()
        self.count += computed and bool(arguments) and result.untyped_storage().data_ptr() not in arguments
        return result


def counted(call: Call, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    with torch.inference_mode(), Counting() as mode:
        result = call(x)
    return result, mode.count


def rounding_operators(graph: onnx.GraphProto) -> list[str]:
    """The operators that depend on the graph's input and round."""
    dependent, operators = {graph.input[0].name}, list[str]()
    for node in graph.node:
        if node.op_type != "Shape" and dependent & set(node.input):
            dependent |= set(node.output)
            operators += [node.op_type] if node.op_type not in FREE else []
    return operators


@pytest.mark.parametrize("name", CALLS)
def test_a_decomposed_call_computes_the_same(name: str) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 8, 16, 16)))
    with torch.inference_mode():
        whole = CALLS[name](x)
    steps, _ = counted(CALLS[name], x)
    assert steps.shape == whole.shape
    np.testing.assert_allclose(steps, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in NOT_COUNTED])
def test_a_decomposition_has_as_many_steps_as_the_exported_graph_has_operators(name: str, tmp_path: Path) -> None:
    """A difference of two is allowed: factors that are folded, or that are 1."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return CALLS[name](x)

    written, x = tmp_path / "net.onnx", torch.rand(2, 8, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Net().eval(), (x,), written, dynamo=False, opset_version=18)
    operators = rounding_operators(onnx.load(written).graph)
    _, ours = counted(CALLS[name], x)
    assert abs(ours - len(operators)) <= 2, (ours, operators)


def test_every_entry_of_the_table_is_tested() -> None:
    x = torch.rand(2, 8, 16, 16)
    called = set[str]()

    class Recording(noise._ElementaryMode):
        def result(self, name: str, func: Callable[..., Any], args: Any, named: Any) -> Any:
            called.add(name)
            return super().result(name, func, args, named)

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.add(getattr(func, "__name__", ""))
            return super().__torch_function__(func, types, args, kwargs)

    with torch.inference_mode(), Recording():
        for call in CALLS.values():
            call(x)
    assert called >= set(elementary.STEPS)


@pytest.mark.parametrize("name", ["heads", "normalize", "gelu", "group norm", "std"])
def test_fp16_rounds_every_step(name: str) -> None:
    """The result differs from the exact one rounded once."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 8, 16, 16)).astype(np.float16)).float()
    with torch.inference_mode():
        whole = CALLS[name](x).half().float()
    with torch.inference_mode(), noise._RoundingMode(rounding.FP16.nearest):
        steps = CALLS[name](x)
    assert torch.equal(steps, steps.half().float())
    assert not torch.equal(steps, whole)
    np.testing.assert_allclose(steps, whole, rtol=2e-2, atol=5e-3)
