"""Decompositions of composite PyTorch calls into the operators that an exported graph has for them.

PyTorch rounds the result of such a call once. ONNX has no operator for it: both exporters of torch 2.13 write several
at opset 18, and FP16 arithmetic rounds the result of each. Calls that are exported as one operator (LayerNormalization,
Softmax, HardSwish, ReduceLogSumExp …) are not in this table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch.nn import functional

Steps = Callable[..., Any]  # has the arguments of the call; None where it is exported as one operator


def _gelu(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    if approximate == "tanh":
        return x * 0.5 * (torch.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1)
    return x * (torch.erf(x / math.sqrt(2)) + 1) * 0.5


def _silu(x: torch.Tensor, inplace: bool = False) -> torch.Tensor | None:
    return None if inplace else x * torch.sigmoid(x)


def _mish(x: torch.Tensor, inplace: bool = False) -> torch.Tensor | None:
    return None if inplace else x * torch.tanh(functional.softplus(x))


def _glu(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    left, right = x.chunk(2, dim)
    return left * torch.sigmoid(right)


def _softsign(x: torch.Tensor) -> torch.Tensor:
    return x / (x.abs() + 1)


def _rsqrt(x: torch.Tensor) -> torch.Tensor:
    return x.sqrt().reciprocal()


def _expm1(x: torch.Tensor) -> torch.Tensor:
    return x.exp() - 1


def _addcmul(x: torch.Tensor, tensor1: torch.Tensor, tensor2: torch.Tensor, *, value: float = 1) -> torch.Tensor:
    return x + tensor1 * tensor2 * value


def _addcdiv(x: torch.Tensor, tensor1: torch.Tensor, tensor2: torch.Tensor, *, value: float = 1) -> torch.Tensor:
    return x + tensor1 / tensor2 * value


def _lerp(x: torch.Tensor, end: torch.Tensor, weight: torch.Tensor | float) -> torch.Tensor:
    return x + (end - x) * weight


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor | None:
    """Not decomposed for matrices, where it is one Gemm."""
    return None if bias is None or x.dim() < 3 else x @ weight.t() + bias


def _group_norm(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    normal = functional.instance_norm(x.reshape(len(x), num_groups, -1), eps=eps).reshape(x.shape)
    shape = (1, -1, *[1] * (x.dim() - 2))
    scaled = normal if weight is None else normal * weight.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)


def _rms_norm(
    x: torch.Tensor, normalized_shape: list[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    sides = tuple(range(-len(normalized_shape), 0))
    epsilon = torch.finfo(x.dtype).eps if eps is None else eps
    normal = x * (x.pow(2).mean(sides, keepdim=True) + epsilon).sqrt().reciprocal()
    return normal if weight is None else normal * weight


def _var(
    x: torch.Tensor,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> torch.Tensor:
    if isinstance(dim, bool):  # x.var(False)
        dim, unbiased = None, dim
    sides = tuple(range(x.dim())) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    count = math.prod(x.shape[side] for side in sides)
    centred = x - x.mean(sides, keepdim=True)
    lost = (1 if unbiased else 0) if correction is None else correction
    mean = (centred * centred).mean(sides, keepdim=keepdim)
    return mean * (count / (count - lost)) if lost else mean


def _std(x: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
    variance: torch.Tensor = x.var(*arguments, **named)
    return variance.sqrt()


def _normalize(x: torch.Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> torch.Tensor:
    length: torch.Tensor = torch.linalg.vector_norm(x, p, dim, keepdim=True)
    return x / length.clamp_min(eps)


def _cosine(x1: torch.Tensor, x2: torch.Tensor, dim: int = 1, eps: float = 1e-8) -> torch.Tensor:
    squares = (x1 * x1).sum(dim) * (x2 * x2).sum(dim)
    return (x1 * x2).sum(dim) / squares.sqrt().clamp_min(eps)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor | None:
    if enable_gqa or dropout_p:
        return None
    root = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = (query * root) @ (key.transpose(-2, -1) * root)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights: torch.Tensor = torch._safe_softmax(scores, -1)
    return weights @ value


def _transparent(function: Callable[..., Any]) -> Steps:
    """A copy of a function of torch.nn.functional whose inner calls reach the mode, instead of the call as a whole."""
    assert isinstance(function, FunctionType)
    checks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **dict.fromkeys(checks, _never)},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _never(*_: object) -> bool:
    return False


STEPS: Mapping[str, Steps] = {  # by the name of the torch call
    "gelu": _gelu,
    "silu": _silu,
    "mish": _mish,
    "glu": _glu,
    "softsign": _softsign,
    "tanhshrink": lambda x: x - torch.tanh(x),
    "log_sigmoid": lambda x: torch.log(torch.sigmoid(x)),
    "log1p": lambda x: torch.log(x + 1),
    "expm1": _expm1,
    "rsqrt": _rsqrt,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
    "linear": _linear,
    "group_norm": _group_norm,
    "rms_norm": _rms_norm,
    "var": _var,
    "std": _std,
    "normalize": _normalize,
    "cosine_similarity": _cosine,
    "scaled_dot_product_attention": _attention,
    "local_response_norm": _transparent(functional.local_response_norm),
    "multi_head_attention_forward": _transparent(functional.multi_head_attention_forward),
}
