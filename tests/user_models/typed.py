"""Models that take what users have: every type of number, one number a case, and pixels as a camera gives them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Summed(nn.Module):
    """Adds up inputs of any types and shapes, each weighed by its own number."""

    def forward(self, *inputs: Tensor) -> Tensor:
        each = [
            tensor.float().reshape(tensor.shape[0], -1).mean(1) * (place + 1) for place, tensor in enumerate(inputs)
        ]
        return torch.stack(each, 1)


class Stepped(nn.Module):
    """An image and one time step a case, as diffusion models take them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.step = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8)

    def forward(self, image: Tensor, t: Tensor) -> Tensor:
        angle = t[:, None].float() * torch.exp(-math.log(1e4) * torch.arange(4, device=t.device) / 4)
        turned = torch.cat([angle.sin(), angle.cos()], 1)
        return functional.silu(self.conv(image) + self.step(turned)[:, :, None, None])


class Bytes(nn.Module):
    """Pixels as they come, the normalisation inside; `last` is where the channels are."""

    def __init__(self, channels: int = 3, last: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last, self.conv, self.linear = last, nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.Linear(16, 10)

    def forward(self, image: Tensor) -> Tensor:
        planes = image.permute(0, 3, 1, 2) if self.last else image
        made: Tensor = self.linear(functional.relu(self.conv(planes.float() / 127.5 - 1)).amax((2, 3)))
        return made


class Keyworded(nn.Module):
    """Takes ids or what is embedded already, by the name of the parameter, as encoders do."""

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
    """Bytes and a class, one case at a time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.table = nn.Conv2d(3, 8, 3, padding=1), nn.Embedding(100, 8)

    def forward(self, image: Tensor, kind: Tensor) -> Tensor:
        assert len(image) == 1, "one at a time"
        made: Tensor = (self.conv(image.float() / 255) + self.table(kind)[:, :, None, None]).amax((2, 3))
        return made


class Sorted(nn.Module):
    """Boxes whose second corner lies behind the first: numbers that nobody would draw."""

    def forward(self, boxes: Tensor) -> Tensor:
        size = boxes[..., 2:] - boxes[..., :2]
        assert not bool((size < 0).any()), "a box ends before it begins"
        return size.prod(-1)


class Mean(nn.Module):
    """The mean of each channel of each image: what the image was made into can be read from the answer."""

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.last = last

    def forward(self, image: Tensor) -> Tensor:
        return image.float().mean((1, 2) if self.last else (2, 3))


class Maps(nn.Module):
    """Maps of half the size, of images of any size."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.out = nn.Conv2d(channels, 8, 3, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        made: Tensor = self.out(functional.relu(self.conv(image)))
        return made
