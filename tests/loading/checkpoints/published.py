"""Synthetic checkpoints: the keys and shapes of published checkpoints, with random values of a realistic scale."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
Shapes = dict[str, tuple[int, ...]]


def shapes(name: str) -> Shapes:
    """The keys and shapes of a published checkpoint, in order."""
    path = HERE / "layouts" / f"{name}.txt"
    path = path if path.exists() else HERE.parents[1] / "models" / "layouts" / f"{name}.txt"
    return {key: ast.literal_eval(shape) for key, shape in (line.split("\t") for line in path.read_text().splitlines())}


def _norm(path: str, channels: int) -> Shapes:
    names = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{path}.{name}": (channels,) for name in names}, f"{path}.num_batches_tracked": ()}


def mmpretrain_shufflenet_g3() -> Shapes:
    """The shapes according to the source code of mmpretrain."""
    shapes: Shapes = {"backbone.conv1.conv.weight": (24, 3, 3, 3), **_norm("backbone.conv1.bn", 24)}
    inputs = 24
    for stage, (outputs, repeats) in enumerate(((240, 4), (480, 8), (960, 4))):
        for unit in range(repeats):
            path, middle = f"backbone.layers.{stage}.{unit}", outputs // 4
            groups = 1 if (stage, unit) == (0, 0) else 3
            shapes[f"{path}.g_conv_1x1_compress.conv.weight"] = (middle, inputs // groups, 1, 1)
            shapes |= _norm(f"{path}.g_conv_1x1_compress.bn", middle)
            shapes[f"{path}.depthwise_conv3x3_bn.conv.weight"] = (middle, 1, 3, 3)
            shapes |= _norm(f"{path}.depthwise_conv3x3_bn.bn", middle)
            expanded = outputs - inputs if unit == 0 else outputs
            shapes[f"{path}.g_conv_1x1_expand.conv.weight"] = (expanded, middle // 3, 1, 1)
            shapes |= _norm(f"{path}.g_conv_1x1_expand.bn", expanded)
            inputs = outputs
    return {**shapes, "head.fc.weight": (1000, 960), "head.fc.bias": (1000,)}


def huggingface_mobilenet(width: float = 1.0) -> Shapes:
    """Google's MobileNet v1 in `transformers`, according to its documentation."""
    inputs = int(32 * width)
    path = "mobilenet_v1.conv_stem"
    shapes: Shapes = {f"{path}.convolution.weight": (inputs, 3, 3, 3), **_norm(f"{path}.normalization", inputs)}
    for block, full in enumerate((64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)):
        outputs = int(full * width)
        for number, shape in ((2 * block, (inputs, 1, 3, 3)), (2 * block + 1, (outputs, inputs, 1, 1))):
            path = f"mobilenet_v1.layer.{number}"
            shapes |= {f"{path}.convolution.weight": shape, **_norm(f"{path}.normalization", shape[0])}
        inputs = outputs
    return {**shapes, "classifier.weight": (1001, inputs), "classifier.bias": (1001,)}


def with_shapes(keys: Shapes, values: Shapes) -> Shapes:
    """The keys of one list with the shapes of another, in order: a list for a width that is not published."""
    return dict(zip(keys, values.values(), strict=True))


def tensors(key_shapes: Shapes, classes: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Random values of these shapes: filters that preserve the scale, batch norms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    return {key: _values(key, _with_classes(shape, classes), generator) for key, shape in key_shapes.items()}


def _with_classes(shape: tuple[int, ...], classes: int | None) -> tuple[int, ...]:
    return (classes, *shape[1:]) if classes and shape[:1] in ((1000,), (1001,)) else shape


def _values(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if not shape:
        return torch.tensor(1000)
    normal = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return normal * math.sqrt(2 / math.prod(shape[1:]))
    if key.endswith(("running_var", "weight")):
        return 0.6 + 0.8 * torch.rand(shape, generator=generator)
    return 0.2 * normal
