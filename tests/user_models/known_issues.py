"""Small networks with the blocks for which TensorRT is reported to compile a graph wrongly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

HEADS = 2


class Patches(nn.Module):
    """An image as tokens (batch, tokens, size)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.project, self.norm = nn.Conv2d(3, size, 4, stride=4), nn.LayerNorm(size)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.project(image).flatten(2).transpose(1, 2))  # type: ignore[no-any-return]  # a Module call


class DeformableAttention(nn.Module):
    """Samples two maps at four places a query, and weighs the samples with a softmax if it is told to."""

    def __init__(self, size: int, weighted: bool) -> None:
        super().__init__()
        self.weighted = weighted
        self.value, self.places = nn.Linear(size, size), nn.Linear(size, HEADS * 2 * 4 * 2)
        self.weights, self.out = nn.Linear(size, HEADS * 2 * 4), nn.Linear(size, size)

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        batch, count, size = tokens.shape
        queries, width = tokens[:, ::4], size // HEADS
        value = self.value(tokens).view(batch, count, HEADS, width).permute(0, 2, 3, 1)
        value = value.reshape(batch * HEADS, width, side, side)
        maps = [value, functional.avg_pool2d(value, 2)]
        places = self.places(queries).tanh().view(batch, -1, HEADS, 2, 4, 2).permute(0, 2, 1, 3, 4, 5)
        places = places.reshape(batch * HEADS, queries.shape[1], 2, 4, 2)
        samples = [
            functional.grid_sample(at, places[:, :, level], align_corners=False) for level, at in enumerate(maps)
        ]
        stacked = torch.stack(samples, dim=-2).flatten(-2)
        weights = self.weights(queries).view(batch, -1, HEADS, 8)
        weights = weights.softmax(-1) if self.weighted else weights.sigmoid()
        weights = weights.transpose(1, 2).reshape(batch * HEADS, 1, -1, 8)
        total = (stacked * weights).sum(-1).view(batch, size, -1)
        return self.out(total.transpose(1, 2))  # type: ignore[no-any-return]  # a Module call


class Deformable(nn.Module):
    def __init__(self, size: int = 16, classes: int = 10, weighted: bool = True) -> None:
        super().__init__()
        self.patches, self.attention = Patches(size), DeformableAttention(size, weighted)
        self.head = nn.Linear(size, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.attention(self.patches(image), 8).mean(1))  # type: ignore[no-any-return]  # a Module call


class ReducedAttention(nn.Module):
    """SegFormer's: the keys and values are fewer than the queries, by a convolution of the tokens as an image."""

    def __init__(self, size: int, kernel: int, stride: int, reduced_query: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.reduce = nn.Conv2d(size, size, kernel, stride, (kernel - stride + 1) // 2) if stride > 1 else None
        self.norm, self.out, self.reduced_query = nn.LayerNorm(size), nn.Linear(size, size), reduced_query

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        batch, _, size = tokens.shape
        fewer = tokens
        if self.reduce is not None:
            as_image = tokens.transpose(1, 2).reshape(batch, size, side, side)
            fewer = self.norm(self.reduce(as_image).flatten(2).transpose(1, 2))
        sources = (fewer if self.reduced_query else tokens, fewer, fewer)
        layers = (self.query, self.key, self.value)
        query, key, value = (
            layer(x).view(batch, -1, HEADS, size // HEADS).transpose(1, 2)
            for layer, x in zip(layers, sources, strict=True)
        )
        seen = functional.scaled_dot_product_attention(query, key, value)
        return self.out(seen.transpose(1, 2).reshape(batch, -1, size))  # type: ignore[no-any-return]  # a Module call


class Reduced(nn.Module):
    def __init__(
        self, size: int = 16, classes: int = 10, kernel: int = 2, stride: int = 2, reduced_query: bool = False
    ) -> None:
        super().__init__()
        self.patches, self.attention = Patches(size), ReducedAttention(size, kernel, stride, reduced_query)
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, classes)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.attention(self.norm(self.patches(image)), 8)
        return self.head(tokens.mean(1))  # type: ignore[no-any-return]  # a Module call


def turned(x: Tensor, by_pairs: bool) -> Tensor:
    """A quarter turn of each half, or each pair, of the channels."""
    if by_pairs:
        return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


class RotaryAttention(nn.Module):
    """Rotates the queries and keys, after the first `prefix` tokens alone; `rotate` says which of the two."""

    def __init__(self, size: int, prefix: int, by_pairs: bool, rotate: str) -> None:
        super().__init__()
        self.prefix, self.by_pairs, self.rotate = prefix, by_pairs, rotate
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        angles = torch.arange(64)[:, None] * 10 ** -torch.linspace(0, 2, size // HEADS)
        self.cos, self.sin = nn.Buffer(angles.cos()), nn.Buffer(angles.sin())

    def rotated(self, x: Tensor) -> Tensor:
        others = x[:, :, self.prefix :]
        others = others * self.cos + turned(others, self.by_pairs) * self.sin
        return torch.cat((x[:, :, : self.prefix], others), 2) if self.prefix else others

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, size = tokens.shape
        query, key, value = self.qkv(tokens).view(batch, count, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        query = self.rotated(query) if "query" in self.rotate else query
        key = self.rotated(key) if "key" in self.rotate else key
        seen = functional.scaled_dot_product_attention(query, key, value)
        return self.out(seen.transpose(1, 2).reshape(batch, count, size))  # type: ignore[no-any-return]  # a Module call


class Rotary(nn.Module):
    def __init__(
        self,
        size: int = 16,
        classes: int = 10,
        prefix: int = 0,
        by_pairs: bool = False,
        rotate: str = "query and key",
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.patches, self.prefix = Patches(size), prefix
        self.token = nn.Parameter(torch.randn(1, prefix, size))
        self.layers = nn.ModuleList(RotaryAttention(size, prefix, by_pairs, rotate) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, classes)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(image)
        if self.prefix:
            tokens = torch.cat((self.token.expand(image.shape[0], -1, -1), tokens), 1)
        for layer in self.layers:
            tokens = tokens + layer(tokens)
        return self.head(self.norm(tokens).mean(1))  # type: ignore[no-any-return]  # a Module call


class Lengths(nn.Module):
    """Two convolutions of a sequence (batch, 8, frames) with a stride, and a mask of the lengths after them."""

    def __init__(self, in_floats: bool = True, strided: bool = True) -> None:
        super().__init__()
        self.in_floats, self.strided = in_floats, strided
        self.layers = nn.ModuleList(nn.Conv1d(8, 8, 3, 2 if strided else 1, 1) for _ in range(2))

    def forward(self, frames: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            frames = layer(frames).relu()
            if self.strided:
                length = ((length.float() - 1) / 2 + 1).floor().long() if self.in_floats else (length - 1) // 2 + 1
        mask = torch.arange(frames.shape[2]) < length[:, None]
        return (frames * mask[:, None]).sum(2) / length[:, None], length


def deformable(weighted: bool = True) -> nn.Module:
    return Deformable(weighted=weighted)


def reduced() -> nn.Module:
    return Reduced()


def rotary(prefix: int = 0, depth: int = 2) -> nn.Module:
    return Rotary(prefix=prefix, depth=depth)


def lengths() -> nn.Module:
    return Lengths()
