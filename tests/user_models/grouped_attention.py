"""An encoder with grouped-query attention, which only the dynamo exporter accepts."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

_WIDTH, _HEADS, _KEY_HEADS = 32, 4, 2


class Encoder(nn.Module):
    """Embedding with positions, one layer of attention with fewer heads of keys than of queries, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(50, _WIDTH), nn.Embedding(16, _WIDTH)
        self.query = nn.Linear(_WIDTH, _WIDTH)
        self.key, self.value = (nn.Linear(_WIDTH, _WIDTH * _KEY_HEADS // _HEADS) for _ in range(2))
        self.merge, self.norm, self.head = nn.Linear(_WIDTH, _WIDTH), nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Five logits for each of (batch, 16) token numbers below 50."""
        state = self.tokens(tokens) + self.positions.weight
        query, key, value = (
            projected.unflatten(-1, (-1, _WIDTH // _HEADS)).transpose(1, 2)
            for projected in (self.query(state), self.key(state), self.value(state))
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        merged: torch.Tensor = self.norm(state + self.merge(mixed.transpose(1, 2).flatten(2)))
        return torch.as_tensor(self.head(merged.mean(1)))
