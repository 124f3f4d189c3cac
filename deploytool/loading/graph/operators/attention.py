"""Attention and rotary embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from deploytool.loading.graph.op import Op, Operator


def _attention(op: Op, *inputs: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Attention of opset 23 and later: query, key, value, mask, past key, past value, lengths without padding."""
    q, k, v, mask, past_key, past_value, lengths = (*inputs, *[None] * 7)[:7]
    assert q is not None
    assert k is not None
    assert v is not None
    flat = q.dim() == 3
    heads, kv_heads = op.integer("q_num_heads"), op.integer("kv_num_heads")
    query, key, value = (
        (split_heads(q, heads), split_heads(k, kv_heads), split_heads(v, kv_heads)) if flat else (q, k, v)
    )
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    present = key, value
    offset = 0 if past_key is None else past_key.shape[2]
    allowed = _allowed(op, query, key, lengths, offset)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scale = op.number("scale") if op.has("scale") else 1 / math.sqrt(query.shape[-1])
    root = math.sqrt(scale)
    products = torch.matmul(query * root, (key * root).transpose(-1, -2))
    captured = [products]
    softcap = op.number("softcap")
    scores = torch.tanh(products / softcap) * softcap if softcap else products
    captured.append(scores)
    scores = masked(scores, mask, allowed)
    captured.append(scores)
    weights = torch._safe_softmax(scores, -1)
    captured.append(weights)
    result = torch.matmul(weights, value)
    return (join_heads(result) if flat else result, *present, captured[op.integer("qk_matmul_output_mode")])


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Batch × positions × features as batch × heads × positions × features of a head."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def join_heads(x: torch.Tensor) -> torch.Tensor:
    """The reverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


def masked(scores: torch.Tensor, mask: torch.Tensor | None, allowed: torch.Tensor | None) -> torch.Tensor:
    """Scores with a mask, boolean or added, that may be shorter than the keys; those not allowed become -inf."""
    if mask is not None:
        missing = scores.shape[-1] - mask.shape[-1]
        if missing:
            fill = False if mask.dtype == torch.bool else -math.inf
            mask = torch.nn.functional.pad(mask, (0, missing), value=fill)
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores if allowed is None else scores.masked_fill(~allowed, -math.inf)


def _allowed(
    op: Op, query: torch.Tensor, key: torch.Tensor, lengths: torch.Tensor | None, offset: int
) -> torch.Tensor | None:
    """Which keys each query may see, by order, window and padding; None if all."""
    queries, keys = query.shape[2], key.shape[2]
    first = torch.tensor(offset) if lengths is None else (lengths - queries).view(-1, 1, 1, 1)
    distance = torch.arange(queries).view(-1, 1) + first - torch.arange(keys)  # how far back a key lies
    left, right = op.integer("left_window_size", -1), op.integer("right_window_size", -1)
    limits = [distance >= 0] if op.flag("is_causal") else []
    limits += [distance <= left] if left >= 0 else []
    limits += [distance >= -right] if right >= 0 else []
    if lengths is not None:
        limits.append(torch.arange(keys) < lengths.view(-1, 1, 1, 1))
    result = None
    for limit in limits:
        result = limit if result is None else result & limit
    return result


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, interleaved: bool, width: int) -> torch.Tensor:
    """The first `width` features of batch × positions × heads × features, rotated by tables of half as many angles."""
    turned, rest = (x[..., :width], x[..., width:]) if width and width < x.shape[-1] else (x, None)
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    parts = [real, imaginary]
    result = torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
    return result if rest is None else torch.cat([result, rest], -1)


def _rotary_embedding(
    op: Op, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor | None = None
) -> torch.Tensor:
    by_position = x.transpose(1, 2) if x.dim() == 4 else x.reshape(*x.shape[:2], op.integer("num_heads"), -1)
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    tables = cos.unsqueeze(2), sin.unsqueeze(2)
    result = rotated(by_position, *tables, interleaved=op.flag("interleaved"), width=op.integer("rotary_embedding_dim"))
    return result.transpose(1, 2) if x.dim() == 4 else result.reshape(x.shape)


OPERATORS: Mapping[str, Operator] = {"Attention": _attention, "RotaryEmbedding": _rotary_embedding}
