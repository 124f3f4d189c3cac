"""Operators of ONNX Runtime (domain com.microsoft) that its optimizer and its quantiser write often."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.nn import functional

from deploytool.loading.graph.op import Op, Operator
from deploytool.loading.graph.operators import arithmetic, attention, normalization, quantization, resize, shapes
from deploytool.loading.graph.operators.convolution import conv


def _gelu(op: Op, x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x)


def _bias_gelu(op: Op, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x + bias)


def _fast_gelu(op: Op, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


def _quick_gelu(op: Op, x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x * op.number("alpha", 1.702))


def _fused_matmul(op: Op, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if op.flag("transBatchA") or op.flag("transBatchB"):
        raise NotImplementedError("batch transposed")
    left = a.transpose(-1, -2) if op.flag("transA") and a.dim() > 1 else a
    right = b.transpose(-1, -2) if op.flag("transB") and b.dim() > 1 else b
    alpha = op.number("alpha", 1.0)
    return torch.matmul(left, right) if alpha == 1 else torch.matmul(left, right) * alpha


def _activated(op: Op, x: torch.Tensor) -> torch.Tensor:
    """The result of a fused node behind its activation."""
    name = op.text("activation")
    numbers = op.numbers("activation_params")
    if name == "LeakyRelu":
        alpha = numbers[0] if numbers else op.number("activation_alpha", op.number("leaky_relu_alpha", 0.01))
        return functional.leaky_relu(x, alpha)
    if name == "Clip":
        return torch.clamp(x, *numbers)
    if name == "HardSigmoid":
        return torch.clamp(x * numbers[0] + numbers[1], 0, 1)
    plain = {"": lambda x: x, "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh}
    if name not in plain:
        raise NotImplementedError(f"the activation {name}")
    result: torch.Tensor = plain[name](x)
    return result


def _fused_conv(
    op: Op,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    added: torch.Tensor | None = None,
) -> torch.Tensor:
    result = conv(op, x, weight, bias)
    return _activated(op, result if added is None else result + added)


def _fused_gemm(op: Op, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
    return _activated(op, arithmetic.gemm(op, a, b, c))


def _skip_layer_norm(
    op: Op,
    x: torch.Tensor,
    skip: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor | None, ...]:
    """The normalised sum; the fourth output is the sum."""
    total = x + skip if bias is None else x + skip + bias
    result = functional.layer_norm(total, gamma.shape, gamma, beta, op.number("epsilon", 1e-12))
    return result, None, None, total


def _skip_rms_norm(
    op: Op, x: torch.Tensor, skip: torch.Tensor, gamma: torch.Tensor, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor | None, ...]:
    total = x + skip if bias is None else x + skip + bias
    return functional.rms_norm(total, gamma.shape, gamma, op.number("epsilon", 1e-12)), None, None, total


def _embed_layer_norm(op: Op, ids: torch.Tensor, *inputs: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """The normalised sum of word, position and segment embeddings; the second output counts the tokens of the mask."""
    segments, word, position, segment, gamma, beta, mask, positions = (*inputs, *[None] * 8)[:8]
    assert word is not None
    assert position is not None
    assert gamma is not None
    at = torch.arange(ids.shape[1]).expand(ids.shape) if positions is None else positions
    total = functional.embedding(ids, word) + functional.embedding(at, position)
    if segments is not None and segment is not None:
        total = total + functional.embedding(segments, segment)
    counts = torch.zeros(len(ids), dtype=torch.int32) if mask is None else mask.sum(1).to(torch.int32)
    return functional.layer_norm(total, gamma.shape, gamma, beta, op.number("epsilon", 1e-12)), counts, total


def _packed_attention(op: Op, x: torch.Tensor, weight: torch.Tensor, *inputs: torch.Tensor | None) -> torch.Tensor:
    """Attention whose query, key and value are one product; the mask is of tokens, or counts them."""
    bias, mask, past, added = (*inputs, *[None] * 4)[:4]
    sizes = op.integers("qkv_hidden_sizes")
    if past is not None or sizes or op.flag("do_rotary"):
        raise NotImplementedError("a cache, or parts of different sizes")
    projected = functional.linear(x, weight.t(), bias)
    q, k, v = (attention.split_heads(part, op.integer("num_heads")) for part in projected.chunk(3, -1))
    return _attended(op, (q, k, v), mask, added, causal=op.flag("unidirectional"))


def _multi_head_attention(
    op: Op, q: torch.Tensor, k: torch.Tensor | None = None, v: torch.Tensor | None = None, *inputs: torch.Tensor | None
) -> torch.Tensor:
    bias, mask, added, past_key = (*inputs, *[None] * 4)[:4]
    if past_key is not None or k is None or v is None or {q.dim(), k.dim(), v.dim()} != {3}:
        raise NotImplementedError("a cache, or packed parts")
    parts = [q, k, v]
    if bias is not None:
        shares = torch.split(bias, [part.shape[-1] for part in parts])
        parts = [part + share for part, share in zip(parts, shares, strict=True)]
    query, key, value = (attention.split_heads(part, op.integer("num_heads")) for part in parts)
    return _attended(op, (query, key, value), mask, added, causal=op.flag("unidirectional"))


def _attended(
    op: Op,
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    mask: torch.Tensor | None,
    added: torch.Tensor | None,
    *,
    causal: bool,
) -> torch.Tensor:
    query, key, value = parts
    scale = op.number("scale") or 1 / math.sqrt(query.shape[-1])
    scores = torch.matmul(query, key.transpose(-1, -2)) * scale
    keys = torch.arange(key.shape[2])
    visible = None
    if mask is not None and mask.dim() == 1 and mask.numel() == len(query):
        visible = (keys < mask.view(-1, 1)).view(len(query), 1, 1, -1)
    elif mask is not None and mask.dim() in (2, 3):
        visible = (mask != 0).view(len(query), 1, -1, key.shape[2])
    elif mask is not None:
        raise NotImplementedError("this form of mask")
    scores = scores if added is None else scores + added
    if visible is not None:  # ONNX Runtime adds a large number instead of infinity
        scores = scores + torch.where(visible, 0.0, op.number("mask_filter_value", -10000.0))
    if causal:
        scores = scores.masked_fill(~(torch.arange(query.shape[2]).view(-1, 1) >= keys), -math.inf)
    return attention.join_heads(torch.matmul(torch.softmax(scores, -1), value))


def _rotary_embedding(
    op: Op, x: torch.Tensor, positions: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    if positions.numel() == 1:
        positions = positions.reshape(()) + torch.arange(x.shape[-2 if x.dim() == 4 else 1])
        positions = positions.expand(len(x), -1)
    width = op.integer("rotary_embedding_dim") or 2 * cos.shape[-1]
    by_position = x.transpose(1, 2) if x.dim() == 4 else x.reshape(*x.shape[:2], x.shape[-1] // width, width)
    if op.integer("num_heads") and x.dim() == 3:
        by_position = x.reshape(*x.shape[:2], op.integer("num_heads"), -1)
    tables = cos[positions].unsqueeze(2), sin[positions].unsqueeze(2)
    result = attention.rotated(by_position, *tables, interleaved=op.flag("interleaved"), width=width)
    return result.transpose(1, 2) if x.dim() == 4 else result.reshape(x.shape)


OPERATORS: Mapping[str, Operator] = {
    "Attention": _packed_attention,
    "BiasGelu": _bias_gelu,
    "DequantizeLinear": quantization.dequantize,
    "EmbedLayerNormalization": _embed_layer_norm,
    "FastGelu": _fast_gelu,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "Gelu": _gelu,
    "GridSample": resize.grid_sample,
    "Inverse": lambda op, x: torch.linalg.inv(x),
    "LayerNormalization": normalization.layer_norm,
    "MultiHeadAttention": _multi_head_attention,
    "QuantizeLinear": quantization.quantize,
    "QuickGelu": _quick_gelu,
    "RotaryEmbedding": _rotary_embedding,
    "SimplifiedLayerNormalization": normalization.rms_norm,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
    "Trilu": shapes.trilu,
    **quantization.MICROSOFT,
}
