"""Hugging Face: Google's MobileNet v1, trained with TensorFlow; class 0 is "background"."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.loading.checkpoints.key_maps import MOBILENET_BLOCKS, Family, KeyMap, Options
from deploytool.spec import Preprocessing


def mobilenet(options: Options) -> KeyMap:
    """Twenty-six layers: alternating depthwise and pointwise convolutions."""
    names = {"conv_stem": "mobilenet_v1.conv_stem.convolution", "bn1": "mobilenet_v1.conv_stem.normalization"}
    for number, block in enumerate(MOBILENET_BLOCKS):
        depthwise, pointwise = f"mobilenet_v1.layer.{2 * number}", f"mobilenet_v1.layer.{2 * number + 1}"
        names |= {
            f"{block}.conv_dw": f"{depthwise}.convolution",
            f"{block}.bn1": f"{depthwise}.normalization",
            f"{block}.conv_pw": f"{pointwise}.convolution",
            f"{block}.bn2": f"{pointwise}.normalization",
        }
    return names


FAMILIES: Mapping[str, Family] = {
    "mobilenet": Family(
        key_pattern=r"mobilenet_v1\.layer\.",
        names=mobilenet,
        options={"stem": "imagenet", "activation": "relu6", "padding": "same", "bn_eps": 1e-3},
        preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    ),
}
