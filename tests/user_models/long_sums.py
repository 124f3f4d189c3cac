"""Correct models with long reductions, or with calls that become several operators in a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, CLASSES = 16, 10

Parts = Mapping[str, Callable[..., Tensor]]
Head = Callable[[Tensor, Parts], Tensor]  # from a feature map of WIDTH channels to (batch, features)


def positions(x: Tensor) -> Tensor:
    """Flattens a feature map to (batch, channels, positions)."""
    return x.flatten(2)


def excited(x: Tensor, parts: Parts) -> Tensor:
    gate = functional.silu(parts["gate"](x.mean((2, 3), keepdim=True))).sigmoid()
    return (x * gate).mean((2, 3))


def gram(x: Tensor, parts: Parts) -> Tensor:
    flat = positions(x)
    return (flat @ flat.transpose(1, 2) / flat.shape[2]).flatten(1)


def attended(x: Tensor, parts: Parts) -> Tensor:
    tokens = positions(functional.avg_pool2d(x, 2)).transpose(1, 2)
    return (tokens + functional.scaled_dot_product_attention(tokens, tokens, tokens)).mean(1)


def headed(x: Tensor, parts: Parts) -> Tensor:
    tokens = parts["layer norm"](positions(functional.avg_pool2d(x, 2)).transpose(1, 2))
    attention: Tensor = parts["heads"](tokens, tokens, tokens, need_weights=False)[0]
    return (tokens + attention).mean(1)


def convnext(x: Tensor, parts: Parts) -> Tensor:
    normed = parts["layer norm"](x.permute(0, 2, 3, 1))
    residual = parts["narrow"](functional.gelu(parts["wide"](normed)))
    return (x.permute(0, 2, 3, 1) + residual).mean((1, 2))


def convolved(x: Tensor, parts: Parts) -> Tensor:
    spatial = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return (x * parts["spatial"](spatial).sigmoid()).mean((2, 3)) + x.amax((2, 3))


def cosine_similarity(x: Tensor, parts: Parts) -> Tensor:
    pooled, rows = x.mean((2, 3)), torch.linspace(-1, 1, 4 * WIDTH).sin().reshape(4, 1, WIDTH)
    return torch.stack([functional.cosine_similarity(pooled, row) for row in rows], 1)


HEADS: Mapping[str, Head] = {
    "pooled": lambda x, _: functional.adaptive_avg_pool2d(x, 1).flatten(1),
    "mean": lambda x, _: x.mean((2, 3)),
    "mean of rows of means": lambda x, _: x.mean(3).mean(2),
    "mean of places first": lambda x, _: positions(x).permute(2, 0, 1).mean(0),
    "sum": lambda x, _: x.sum((2, 3)) / 100,
    "generalised mean": lambda x, _: x.clamp_min(1e-6).pow(3).mean((2, 3)).pow(1 / 3),
    "mean and deviation": lambda x, _: torch.cat([x.mean((2, 3)), x.std((2, 3))], 1),
    "variance": lambda x, _: positions(x).var(2, unbiased=False),
    "gram": gram,
    "unit length": lambda x, _: functional.normalize(x.mean((2, 3))),
    "unit channels": lambda x, _: functional.normalize(x).mean((2, 3)),
    "length of channels": lambda x, _: positions(x).norm(dim=2) / 10,
    "log of sums": lambda x, _: positions(x).logsumexp(2),
    "softmax of places": lambda x, _: (positions(x).softmax(2) * positions(x)).sum(2),
    "softmax": lambda x, _: x.mean((2, 3)).softmax(1),
    "log softmax": lambda x, _: x.mean((2, 3)).log_softmax(1),
    "excited": excited,
    "windows": lambda x, _: functional.avg_pool2d(x, 7, 7).amax((2, 3)),
    "pyramid": lambda x, _: torch.cat([functional.adaptive_avg_pool2d(x, side).flatten(1) for side in (1, 2, 4)], 1),
    "layer norm": lambda x, parts: parts["layer norm"](x.permute(0, 2, 3, 1)).amax((1, 2)),
    "norm of pictures": lambda x, _: functional.group_norm(x, 1).amax((2, 3)),
    "group norm": lambda x, parts: parts["group norm"](x).amax((2, 3)),
    "instance norm": lambda x, parts: parts["instance norm"](x).amax((2, 3)),
    "attended": attended,
    "headed": headed,
    "convnext": convnext,
    "convolved attention": convolved,
    "cosine similarity": cosine_similarity,
    "running sum": lambda x, _: positions(x).cumsum(2)[:, :, ::50].mean(2) / 100,
}


class Seeing(nn.Module):
    """Convolution, batch norm, ReLU, a head with a reduction, and a classifier."""

    def __init__(self, head: str, seed: int, side: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.head, self.stem, self.norm = HEADS[head], nn.Conv2d(3, WIDTH, 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTH)
        self.parts = nn.ModuleDict(
            {
                "gate": nn.Conv2d(WIDTH, WIDTH, 1),
                "spatial": nn.Conv2d(2, 1, 7, padding=3),
                "layer norm": nn.LayerNorm(WIDTH),
                "group norm": nn.GroupNorm(4, WIDTH),
                "instance norm": nn.InstanceNorm2d(WIDTH, affine=True),
                "heads": nn.MultiheadAttention(WIDTH, 4, batch_first=True),
                "wide": nn.Linear(WIDTH, 4 * WIDTH),
                "narrow": nn.Linear(4 * WIDTH, WIDTH),
            }
        )
        with torch.no_grad():
            features = self._features(torch.rand(2, 3, side, side))
        self.classifier = nn.Linear(features.shape[1], CLASSES)

    def _features(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)).relu(), dict(self.parts))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self._features(x))  # type: ignore[no-any-return]  # a Module call


class Hearing(nn.Module):
    """Mean and standard deviation over one second of audio."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.classifier = nn.Conv1d(1, WIDTH, 9, padding=4), nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x).relu()
        return self.classifier(torch.cat([features.mean(2), features.std(2)], 1))  # type: ignore[no-any-return]  # a Module call


def make(head: str = "pooled", seed: int = 0, side: int = 64) -> nn.Module:
    """A model for images of 3 × side × side."""
    return Seeing(head, seed, side).eval()


def hearing(seed: int = 0) -> nn.Module:
    """A model for audio of 1 × 16000 samples."""
    return Hearing(seed).eval()
