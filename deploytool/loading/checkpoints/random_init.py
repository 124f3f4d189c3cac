"""Draws weights where there is no checkpoint: seeded ones that behave like trained ones."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

_PATCHES = 128  # windows of a layer's input that its filters are drawn from


def calibrate(module: nn.Module, batch: torch.Tensor) -> None:
    """Draws weights that respond to `batch` (float32 NCHW) as trained ones do, in place.

    Independent random weights make a deep network chaotic: what rounding adds in the first layer has grown a
    hundredfold in the last, and every image gets the same class. So each filter is half noise and half a random
    mixture of what its layer sees, which favours the directions in which images differ; batch norms get the
    statistics of the batch; outputs are centred, so that logits differ between images.
    After P. Krähenbühl et al., "Data-dependent initializations of convolutional neural networks", ICLR 2016.
    """
    layers = [layer for layer in module.modules() if _is_drawn(layer)]
    last = _last_called(module, layers, batch[:2])
    hooks = [layer.register_forward_pre_hook(_draw) for layer in layers]
    hooks += [layer.register_forward_hook(_centre if layer is last else _shift) for layer in layers]
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over the batches seen
            nn.init.uniform_(norm.weight, 0.6, 1.4)
            nn.init.normal_(norm.bias, 0.3, 0.2)
            norm.train()
    module(batch)
    for hook in hooks:
        hook.remove()
    module.eval()


def _is_drawn(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.dilation == (1, 1))


def _last_called(module: nn.Module, layers: list[nn.Module], batch: torch.Tensor) -> nn.Module | None:
    called: list[nn.Module] = []
    hooks = [layer.register_forward_hook(lambda layer, given, out: called.append(layer)) for layer in layers]
    module(batch)
    for hook in hooks:
        hook.remove()
    return called[-1] if called else None


def _draw(layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
    """Sets the filters: unit vectors, half noise and half a mixture of the windows the layer is looking at."""
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    seen = _windows(layer, given[0])
    seen = seen - seen.mean(0)
    count, groups, size = seen.shape
    filters = layer.weight.shape[0] // groups
    mixture = torch.einsum("gfw,wgs->gfs", torch.randn(groups, filters, count), seen)
    noise = torch.randn(groups, filters, size)
    drawn = functional.normalize(mixture, dim=2) + functional.normalize(noise, dim=2)
    layer.weight.copy_(functional.normalize(drawn, dim=2).reshape(layer.weight.shape))


def _windows(layer: nn.Conv2d | nn.Linear, given: torch.Tensor) -> torch.Tensor:
    """Random windows of the layer's input: windows × groups × values of one filter."""
    if isinstance(layer, nn.Linear):
        return given.reshape(-1, 1, given.shape[-1])
    (height, width), padding = layer.kernel_size, layer._reversed_padding_repeated_twice
    padded = functional.pad(given, padding)
    count, _, rows, columns = padded.shape
    places = [torch.randint(high, (_PATCHES,)).tolist() for high in (count, rows - height + 1, columns - width + 1)]
    windows = [padded[n, :, y : y + height, x : x + width] for n, y, x in zip(*places, strict=True)]
    return torch.stack(windows).reshape(_PATCHES, layer.groups, -1)


def _centre(layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
    """Gives the output unit scale, and each of its channels mean 0; a layer without bias is left to its norm."""
    return _rescale(layer, output, spread=0.0, level=0.0)


def _shift(layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
    """The same with channel means as a batch norm would give them, for a layer that an activation follows."""
    return _rescale(layer, output, spread=0.2, level=0.3)


def _rescale(layer: nn.Module, output: torch.Tensor, spread: float, level: float) -> torch.Tensor | None:
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    if layer.bias is None:
        return None
    channel = 1 if isinstance(layer, nn.Conv2d) else output.dim() - 1
    mean = output.mean([axis for axis in range(output.dim()) if axis != channel], keepdim=True)
    scale, wanted = output.std(), torch.randn_like(mean) * spread + level
    layer.weight.div_(scale)
    layer.bias.sub_(mean.flatten()).div_(scale).add_(wanted.flatten())
    return (output - mean) / scale + wanted
