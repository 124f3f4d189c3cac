"""Synthetic checkpoints: the keys and shapes that a source publishes, with random numbers of a sane size."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
Shapes = dict[str, tuple[int, ...]]


def shapes(name: str) -> Shapes:
    """The list of one published checkpoint, in its order."""
    path = HERE / "layouts" / f"{name}.txt"
    path = path if path.exists() else HERE.parents[1] / "models" / "layouts" / f"{name}.txt"
    return {key: ast.literal_eval(shape) for key, shape in (line.split("\t") for line in path.read_text().splitlines())}


def _norm(place: str, channels: int) -> Shapes:
    names = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{place}.{name}": (channels,) for name in names}, f"{place}.num_batches_tracked": ()}


def mmpretrain_shufflenet_g3() -> Shapes:
    """No list of it is at hand: written down from its repository, stage by stage."""
    made: Shapes = {"backbone.conv1.conv.weight": (24, 3, 3, 3), **_norm("backbone.conv1.bn", 24)}
    inputs = 24
    for stage, (outputs, repeats) in enumerate(((240, 4), (480, 8), (960, 4))):
        for unit in range(repeats):
            place, middle = f"backbone.layers.{stage}.{unit}", outputs // 4
            groups = 1 if (stage, unit) == (0, 0) else 3
            made[f"{place}.g_conv_1x1_compress.conv.weight"] = (middle, inputs // groups, 1, 1)
            made |= _norm(f"{place}.g_conv_1x1_compress.bn", middle)
            made[f"{place}.depthwise_conv3x3_bn.conv.weight"] = (middle, 1, 3, 3)
            made |= _norm(f"{place}.depthwise_conv3x3_bn.bn", middle)
            expanded = outputs - inputs if unit == 0 else outputs
            made[f"{place}.g_conv_1x1_expand.conv.weight"] = (expanded, middle // 3, 1, 1)
            made |= _norm(f"{place}.g_conv_1x1_expand.bn", expanded)
            inputs = outputs
    return {**made, "head.fc.weight": (1000, 960), "head.fc.bias": (1000,)}


def huggingface_mobilenet(width: float = 1.0) -> Shapes:
    """Google's MobileNet v1 in `transformers`: written down from its documentation."""
    inputs = int(32 * width)
    place = "mobilenet_v1.conv_stem"
    made: Shapes = {f"{place}.convolution.weight": (inputs, 3, 3, 3), **_norm(f"{place}.normalization", inputs)}
    for block, full in enumerate((64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)):
        outputs = int(full * width)
        for number, shape in ((2 * block, (inputs, 1, 3, 3)), (2 * block + 1, (outputs, inputs, 1, 1))):
            place = f"mobilenet_v1.layer.{number}"
            made |= {f"{place}.convolution.weight": shape, **_norm(f"{place}.normalization", shape[0])}
        inputs = outputs
    return {**made, "classifier.weight": (1001, inputs), "classifier.bias": (1001,)}


def scaled(given: Shapes, like: Shapes) -> Shapes:
    """The keys of one list with the shapes of another, in order: a list for a width nobody listed."""
    return dict(zip(given, like.values(), strict=True))


def tensors(given: Shapes, classes: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Random numbers of these shapes: filters that keep the scale, batch norms that do something."""
    made = torch.Generator().manual_seed(seed)
    return {key: _numbers(key, _with_classes(shape, classes), made) for key, shape in given.items()}


def _with_classes(shape: tuple[int, ...], classes: int | None) -> tuple[int, ...]:
    return (classes, *shape[1:]) if classes and shape[:1] in ((1000,), (1001,)) else shape


def _numbers(key: str, shape: tuple[int, ...], made: torch.Generator) -> Tensor:
    if not shape:
        return torch.tensor(1000)
    numbers = torch.randn(shape, generator=made)
    if len(shape) > 1:
        return numbers * math.sqrt(2 / math.prod(shape[1:]))
    if key.endswith(("running_var", "weight")):
        return 0.6 + 0.8 * torch.rand(shape, generator=made)
    return 0.2 * numbers
