"""Models with inputs of all dtypes, scalar inputs, and images in uint8."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Summed(nn.Module):
    """The means of inputs of any dtype and shape, each multiplied by its position."""

    def forward(self, *inputs: Tensor) -> Tensor:
        means = [
            tensor.float().reshape(tensor.shape[0], -1).mean(1) * (index + 1) for index, tensor in enumerate(inputs)
        ]
        return torch.stack(means, 1)


class Stepped(nn.Module):
    """An image and a time step per case, like a diffusion model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.step = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8)

    def forward(self, image: Tensor, t: Tensor) -> Tensor:
        angle = t[:, None].float() * torch.exp(-math.log(1e4) * torch.arange(4, device=t.device) / 4)
        turned = torch.cat([angle.sin(), angle.cos()], 1)
        return functional.silu(self.conv(image) + self.step(turned)[:, :, None, None])


class Bytes(nn.Module):
    """Takes uint8 pixels and normalises them itself; last: whether the layout is NHWC."""

    def __init__(self, channels: int = 3, last: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last, self.conv, self.linear = last, nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.Linear(16, 10)

    def forward(self, image: Tensor) -> Tensor:
        planes = image.permute(0, 3, 1, 2) if self.last else image
        made: Tensor = self.linear(functional.relu(self.conv(planes.float() / 127.5 - 1)).amax((2, 3)))
        return made


class Keyworded(nn.Module):
    """Takes token ids or embeddings, depending on the parameter, like an encoder of transformers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(100, 8)

    def forward(
        self, input_ids: Tensor | None = None, mask: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        rows: Tensor = self.table(input_ids) if inputs_embeds is None else inputs_embeds
        return rows.sum(1) if mask is None else (rows * mask[..., None]).sum(1)


class Single(nn.Module):
    """A uint8 image and a class index; accepts only batch size 1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.table = nn.Conv2d(3, 8, 3, padding=1), nn.Embedding(100, 8)

    def forward(self, image: Tensor, kind: Tensor) -> Tensor:
        assert len(image) == 1, "one at a time"
        made: Tensor = (self.conv(image.float() / 255) + self.table(kind)[:, :, None, None]).amax((2, 3))
        return made


class Sorted(nn.Module):
    """Requires boxes with an ordered pair of corners, which random values do not satisfy."""

    def forward(self, boxes: Tensor) -> Tensor:
        size = boxes[..., 2:] - boxes[..., :2]
        assert not bool((size < 0).any()), "a box ends before it begins"
        return size.prod(-1)


class Mean(nn.Module):
    """The mean of each channel, which shows how the image was preprocessed."""

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.last = last

    def forward(self, image: Tensor) -> Tensor:
        return image.float().mean((1, 2) if self.last else (2, 3))


class Maps(nn.Module):
    """Output maps of half the size, for images of any size."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.out = nn.Conv2d(channels, 8, 3, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        made: Tensor = self.out(functional.relu(self.conv(image)))
        return made


class Half(nn.Module):
    """Has weights, inputs and outputs in float16."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 5)
        self.half()

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.second(functional.relu(self.first(x)))
        return made


class OnlyKeywords(nn.Module):
    """Takes its inputs by keyword alone, without declaring their names."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((8,), 3.0))

    def forward(self, **named: Tensor) -> Tensor:
        return named["left"] * self.scale - named["right"]
