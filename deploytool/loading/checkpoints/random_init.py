"""Draws data-dependent random weights that behave numerically like trained ones, where there is no checkpoint."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

_PATCHES = 128  # of a layer's input, from which its filters are drawn


def calibrate(module: nn.Module, batch: torch.Tensor) -> None:
    """Draws weights that respond to `batch` (float32 NCHW) like trained ones, in place.

    Independent random weights make a deep network ill-conditioned: rounding errors of the first layer grow a
    hundredfold up to the last, and every image gets the same class. Therefore each filter is half noise and half a
    random combination of input patches of its layer, which favours the directions in which images differ; batch norms
    get the statistics of the batch; outputs are centred, so that logits differ between images.
    After P. Krähenbühl et al., "Data-dependent initializations of convolutional neural networks", ICLR 2016.
    """
    layers = [layer for layer in module.modules() if _is_drawn(layer)]
    last = _last_called(module, layers, batch[:2])
    hooks = [layer.register_forward_pre_hook(_draw) for layer in layers]
    hooks += [layer.register_forward_hook(_centre if layer is last else _shift) for layer in layers]
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
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
    hooks = [layer.register_forward_hook(lambda layer, inputs, out: called.append(layer)) for layer in layers]
    module(batch)
    for hook in hooks:
        hook.remove()
    return called[-1] if called else None


def _draw(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Sets the filters of a layer to unit vectors: half noise, half a random combination of input patches."""
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    patches = _patches(layer, inputs[0])
    patches = patches - patches.mean(0)
    count, groups, size = patches.shape
    filters = layer.weight.shape[0] // groups
    mixture = torch.einsum("gfw,wgs->gfs", torch.randn(groups, filters, count), patches)
    noise = torch.randn(groups, filters, size)
    drawn = functional.normalize(mixture, dim=2) + functional.normalize(noise, dim=2)
    layer.weight.copy_(functional.normalize(drawn, dim=2).reshape(layer.weight.shape))


def _patches(layer: nn.Conv2d | nn.Linear, layer_input: torch.Tensor) -> torch.Tensor:
    """Random patches of the layer's input; shape: patches × groups × values of one filter."""
    if isinstance(layer, nn.Linear):
        return layer_input.reshape(-1, 1, layer_input.shape[-1])
    (height, width), padding = layer.kernel_size, layer._reversed_padding_repeated_twice
    padded = functional.pad(layer_input, padding)
    count, _, rows, columns = padded.shape
    indices = [torch.randint(high, (_PATCHES,)).tolist() for high in (count, rows - height + 1, columns - width + 1)]
    patches = [padded[n, :, y : y + height, x : x + width] for n, y, x in zip(*indices, strict=True)]
    return torch.stack(patches).reshape(_PATCHES, layer.groups, -1)


def _centre(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
    """Scales the output to unit deviation and its channels to mean 0; layers without bias have a norm instead."""
    return _rescale(layer, output, spread=0.0, level=0.0)


def _shift(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
    """Like `_centre`, with channel means as after a batch norm, for a layer with an activation after it."""
    return _rescale(layer, output, spread=0.2, level=0.3)


def _rescale(layer: nn.Module, output: torch.Tensor, spread: float, level: float) -> torch.Tensor | None:
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    if layer.bias is None:
        return None
    channel = 1 if isinstance(layer, nn.Conv2d) else output.dim() - 1
    mean = output.mean([axis for axis in range(output.dim()) if axis != channel], keepdim=True)
    scale, target = output.std(), torch.randn_like(mean) * spread + level
    layer.weight.div_(scale)
    layer.bias.sub_(mean.flatten()).div_(scale).add_(target.flatten())
    return (output - mean) / scale + target
