"""A small vision transformer: patches, a class token, learned positions, attention, LayerNorm and GELU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, size = x.shape
        split = self.qkv(x).reshape(batch, tokens, 3, self.heads, size // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        seen = functional.scaled_dot_product_attention(query, key, value)
        return self.out(seen.transpose(1, 2).reshape(batch, tokens, size))  # type: ignore[no-any-return]  # a Module call


class Layer(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = Attention(size, heads)
        self.feed = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))  # type: ignore[no-any-return]  # a Module call


class ViT(nn.Module):
    def __init__(self, size: int = 32, heads: int = 4, depth: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, size, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, size))
        self.places = nn.Parameter(0.1 * torch.randn(1, 17, size))
        self.layers = nn.Sequential(*(Layer(size, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, classes)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.token.expand(image.shape[0], -1, -1), patches), dim=1)
        x = self.layers(tokens + self.places)
        return self.head(self.norm(x[:, 0]))  # type: ignore[no-any-return]  # a Module call
