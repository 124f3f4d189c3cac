"""All publishers of weights: keys and shapes, the publisher's network, and the expected options and preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from deploytool.loading import factory
from deploytool.loading.catalog import find
from deploytool.loading.checkpoints import checkpoint
from deploytool.loading.checkpoints.checkpoint import LoadedCheckpoint
from deploytool.spec import Option, Preprocessing
from tests.loading.checkpoints import published, reference_networks
from tests.loading.checkpoints.published import Shapes

HALF = (0.5, 0.5, 0.5)
BICUBIC = Preprocessing(interpolation="bicubic")
PIXELS = Preprocessing(channels="BGR", scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
MEGVII: Mapping[str, Option] = {
    "shuffle_order": "megvii",
    "shuffle_place": "after",
    "concat_order": "shortcut_first",
    "classifier_bias": False,
}


class Source(NamedTuple):
    layout: str
    shapes: Shapes
    model: str
    run: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    options: Mapping[str, Option]
    preprocessing: Preprocessing


SOURCES = {
    "megvii g3": Source(
        "megvii",
        published.shapes("megvii_shufflenet_g3_x1_0"),
        "shufflenet_g3",
        partial(reference_networks.megvii_shufflenet, groups=3),
        MEGVII,
        PIXELS,
    ),
    "megvii g8": Source(
        "megvii",
        published.shapes("megvii_shufflenet_g8_x1_0"),
        "shufflenet_g8",
        partial(reference_networks.megvii_shufflenet, groups=8),
        MEGVII,
        PIXELS,
    ),
    "pytorchcv shufflenet": Source(
        "pytorchcv",
        published.shapes("pytorchcv_shufflenet_g3_w1"),
        "shufflenet_g3",
        reference_networks.pytorchcv_shufflenet,
        {"shuffle_order": "paper", "shuffle_place": "before", "concat_order": "main_first", "classifier_bias": True},
        Preprocessing(),
    ),
    "mmpretrain": Source(
        "mmpretrain",
        published.mmpretrain_shufflenet_g3(),
        "shufflenet_g3",
        reference_networks.mmpretrain_shufflenet,
        {"shuffle_order": "paper", "shuffle_place": "after", "concat_order": "shortcut_first"},
        Preprocessing(),
    ),
    "timm mixnet": Source(
        "timm", published.shapes("timm_mixnet_s"), "mixnet_s", reference_networks.timm_mixnet_s, {}, BICUBIC
    ),
    "timm tf_mixnet": Source(
        "timm",
        published.shapes("timm_mixnet_s"),
        "tf_mixnet_s",
        partial(reference_networks.timm_mixnet_s, same=True),
        {"padding": "same", "bn_eps": 1e-3},
        BICUBIC,
    ),
    "pytorchcv mixnet": Source(
        "pytorchcv",
        published.shapes("pytorchcv_mixnet_s"),
        "mixnet_s",
        reference_networks.pytorchcv_mixnet_s,
        {"padding": "symmetric", "bn_eps": 1e-5},
        Preprocessing(),
    ),
    "timm mobilenet": Source(
        "timm",
        published.shapes("timm_mobilenetv1_100"),
        "mobilenet_v1",
        reference_networks.timm_mobilenet,
        {"activation": "relu6"},
        Preprocessing(interpolation="bicubic", mean=HALF, std=HALF),
    ),
    "pytorchcv mobilenet": Source(
        "pytorchcv",
        published.shapes("pytorchcv_mobilenet_w1"),
        "mobilenet_v1",
        reference_networks.pytorchcv_mobilenet,
        {"activation": "relu"},
        Preprocessing(),
    ),
    "huggingface": Source(
        "huggingface",
        published.huggingface_mobilenet(),
        "mobilenet_v1",
        reference_networks.huggingface_mobilenet,
        {"activation": "relu6", "padding": "same", "bn_eps": 1e-3, "classes": 1001},
        Preprocessing(mean=HALF, std=HALF),
    ),
    "huggingface 0.75": Source(
        "huggingface",
        published.huggingface_mobilenet(0.75),
        "mobilenet_v1_075",
        reference_networks.huggingface_mobilenet,
        {"width": 0.75, "classes": 1001},
        Preprocessing(mean=HALF, std=HALF),
    ),
    "torchvision": Source(
        "torchvision",
        published.shapes("torchvision_squeezenet1_1"),
        "squeezenet1_1",
        partial(reference_networks.squeezenet, pool_before=(0, 2, 4)),
        {"bypass": "none"},
        Preprocessing(),
    ),
    "pytorchcv squeezeresnet": Source(
        "pytorchcv",
        published.shapes("pytorchcv_squeezeresnet_v1_0"),
        "squeezenet1_0_simple_bypass",
        partial(reference_networks.squeezenet, pool_before=(0, 3, 7), bypass=True),
        {"bypass": "simple"},
        Preprocessing(),
    ),
    "pytorchcv squeezenet": Source(
        "pytorchcv",
        published.shapes("pytorchcv_squeezeresnet_v1_0"),
        "squeezenet1_0",
        partial(reference_networks.squeezenet, pool_before=(0, 3, 7)),
        {},
        Preprocessing(),
    ),
}


def load(weights: Mapping[str, Tensor], model: str, folder: Path) -> LoadedCheckpoint:
    torch.save(dict(weights), folder / "weights.pth")
    return checkpoint.load(folder / "weights.pth", find(model))


def run(loaded: LoadedCheckpoint, x: Tensor, **options: Option) -> Tensor:
    """The logits of the zoo's definition with the loaded weights."""
    module = factory.resolve(loaded.model.factory)(**{**loaded.model.options, **options}).eval()
    module.load_state_dict(dict(loaded.state), strict=True)
    with torch.no_grad():
        logits: Tensor = module(x)
    return logits


def images(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(7))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())
