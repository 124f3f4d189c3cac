"""Attention and pooling with all kinds of masks (huge constants), and values that overflow in FP16."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 16
SMALLEST = torch.finfo(torch.float32).min


class Masked(nn.Module):
    """One attention head over eight tokens; subclasses apply a mask in `scores`."""

    later: Tensor
    added: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 10)
        self.register_buffer("later", torch.ones(8, 8, dtype=torch.bool).triu(1))
        self.register_buffer("added", torch.full((8, 8), float("-inf")).triu(1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.scores(q @ k.transpose(1, 2) / WIDTH**0.5).softmax(-1) @ v

    def scores(self, scores: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).chunk(3, -1)
        output: Tensor = self.out(self.attend(q, k, v).mean(1))
        return output


class Infinity(Masked):
    def scores(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(self.later, float("-inf"))


class Billion(Masked):
    def scores(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(self.later, -1e9)


class Smallest(Masked):
    def scores(self, scores: Tensor) -> Tensor:
        return torch.where(self.later, torch.full_like(scores, SMALLEST), scores)


class Added(Masked):
    def scores(self, scores: Tensor) -> Tensor:
        return scores + self.added


class AddedOnce(Masked):
    def scores(self, scores: Tensor) -> Tensor:
        return scores + self.later.float() * -1e9


class AddedTwice(Masked):
    """A causal mask and a padding mask; their sum overflows even in FP32."""

    def scores(self, scores: Tensor) -> Tensor:
        padding = (torch.arange(8) > 6).float() * SMALLEST
        return scores + self.later.float() * SMALLEST / 2 + padding / 2


class LeftPadded(Masked):
    """The first three tokens are padding, so the first three queries see no key; the scores are up to 40."""

    def scores(self, scores: Tensor) -> Tensor:
        hidden = self.later | (torch.arange(8) < 3)
        return scores * 40 + torch.where(hidden, SMALLEST, 0.0)


class LeftPaddedTwice(LeftPadded):
    """With a mask for the later tokens and one for the padding: where both are, the sum is minus infinity."""

    def scores(self, scores: Tensor) -> Tensor:
        padding = (torch.arange(8) < 3).float() * SMALLEST
        return scores + self.later.float() * SMALLEST + padding


class Bounded(Masked):
    """The sum is limited to the mask's own value, as in OPT."""

    def scores(self, scores: Tensor) -> Tensor:
        return torch.max(scores + self.later.float() * SMALLEST, torch.tensor(SMALLEST))


class Made(Masked):
    def scores(self, scores: Tensor) -> Tensor:
        return scores + torch.full((scores.shape[1], scores.shape[2]), float("-inf")).triu(1)


class Boolean(Masked):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], attn_mask=~self.later)[:, 0]


class Causal(Masked):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], is_causal=True)[:, 0]


class Pooled(Masked):
    """The maximum of the values that are not masked."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        masked = v.masked_fill(self.later[3, :, None], float("-inf"))
        return q + masked.amax(1, keepdim=True) + k


class Padded(Masked):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (
            functional.max_pool1d(functional.pad(v.transpose(1, 2), (1, 1), value=float("-inf")), 3, 1).transpose(1, 2)
            + q
            + k
        )


class Lengths(Masked):
    """Padding as in the transformers library: an integer mask is a separate input."""

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:  # type: ignore[override]
        q, k, v = self.qkv(tokens).chunk(3, -1)
        present = torch.cat([torch.ones_like(present[:, :1]), present[:, 1:]], 1)
        added = (1.0 - present[:, None, :].to(tokens.dtype)) * SMALLEST
        scores = q @ k.transpose(1, 2) / WIDTH**0.5 + added
        output: Tensor = self.out((scores.softmax(-1) @ v).mean(1))
        return output


class Overflowing(Masked):
    """Its scores are too large for FP16, in addition to the mask."""

    def scores(self, scores: Tensor) -> Tensor:
        return (scores * 1e6).masked_fill(self.later, float("-inf")) / 1e6


class OverflowingAdded(Masked):
    def scores(self, scores: Tensor) -> Tensor:
        return ((scores * 3e4 + self.added) * 30.0) / 9e5


class OverflowingClamped(Masked):
    """The scores are too large for FP16, and clamped before the mask."""

    def scores(self, scores: Tensor) -> Tensor:
        return (scores * 3e4 * 30.0).clamp(-5.0, 5.0).masked_fill(self.later, -1e9)
