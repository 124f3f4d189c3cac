"""Models with a baked-in size that should depend on the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Seeing(nn.Module):
    """A convolution and a linear layer, the base of the models below."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.name = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 10)


class BatchByLen(Seeing):
    def forward(self, image: Tensor) -> Tensor:
        seen = self.see(image).relu().mean((2, 3))
        return self.name(seen + torch.ones(len(image), 8))  # type: ignore[no-any-return]  # a Module call


class BatchByInt(Seeing):
    def forward(self, image: Tensor) -> Tensor:
        seen = self.see(image).relu().mean((2, 3))
        return self.name(seen.reshape(int(image.shape[0]), 8))  # type: ignore[no-any-return]  # a Module call


class BatchOfFour(Seeing):
    def forward(self, image: Tensor) -> Tensor:
        return self.name(self.see(image).relu().mean((2, 3)).reshape(4, 8))  # type: ignore[no-any-return]  # a Module call


class Squeezed(Seeing):
    def forward(self, image: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(self.see(image).relu(), 1)
        return self.name(pooled.squeeze())  # type: ignore[no-any-return]  # a Module call


class BatchMixed(Seeing):
    """Each output depends on the other images of its batch."""

    def forward(self, image: Tensor) -> Tensor:
        seen = self.see(image).relu().mean((2, 3))
        return self.name(seen - seen.mean(dim=0, keepdim=True))  # type: ignore[no-any-return]  # a Module call


class Pairs(Seeing):
    """The second dimension of the output is the batch size too."""

    def forward(self, image: Tensor) -> Tensor:
        seen = self.see(image).relu().mean((2, 3))
        return seen @ seen.T  # type: ignore[no-any-return]  # a Module call


class SizeOf48(Seeing):
    def forward(self, image: Tensor) -> Tensor:
        seen = self.see(image).relu().reshape(-1, 8, 24 * 24)
        return self.name(seen.mean(dim=2))  # type: ignore[no-any-return]  # a Module call


class SizeByInt(Seeing):
    def forward(self, image: Tensor) -> Tensor:
        seen = self.see(image).relu()
        flat = seen.reshape(-1, 8, int(seen.shape[2]) * int(seen.shape[3]))
        return self.name(flat.mean(dim=2))  # type: ignore[no-any-return]  # a Module call


class MapByInt(Seeing):
    """The size of the output map is the image size at export."""

    def forward(self, image: Tensor) -> Tensor:
        size = (int(image.shape[2]), int(image.shape[3]))
        grown: Tensor = nn.functional.interpolate(self.see(image).relu(), size=size)
        return grown


class CropByInt(Seeing):
    """Runs at all sizes, and is wrong at all but one."""

    def forward(self, image: Tensor) -> Tensor:
        top = self.see(image).relu()[:, :, : int(image.shape[2]) // 4]
        return self.name(top.mean((2, 3)))  # type: ignore[no-any-return]  # a Module call


class LouderWhenLarge(Seeing):
    """A branch on the size: the exported graph runs at all sizes, and is wrong at the largest."""

    def forward(self, image: Tensor) -> Tensor:
        seen = self.see(image).relu().mean((2, 3))
        if image.shape[2] > 48:
            seen = seen * 2
        return self.name(seen)  # type: ignore[no-any-return]  # a Module call


class LouderInCrowds(Seeing):
    """A branch on the batch size, taken from five images on."""

    def forward(self, image: Tensor) -> Tensor:
        seen = self.see(image).relu().mean((2, 3))
        if image.shape[0] > 4:
            seen = seen * 2
        return self.name(seen)  # type: ignore[no-any-return]  # a Module call
