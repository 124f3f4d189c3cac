"""timm: MixNet and MobileNet v1; our definitions took over its names.

`mixnet_s` and `tf_mixnet_s` have the same keys and shapes: the model one asks for says how the weights want to be
padded. MobileNet's names are ours too, but timm trains it with ReLU6.
"""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.loading.checkpoints.key_maps import Family
from deploytool.spec import Preprocessing

FAMILIES: Mapping[str, Family] = {
    "mixnet": Family(
        sign=r"blocks\.\d\.\d\.conv_pw\.\d\.",
        preprocessing=Preprocessing(interpolation="bicubic"),
    ),
    "mobilenet": Family(
        sign=r"blocks\.3\.5\.",
        options={"stem": "imagenet", "activation": "relu6", "padding": "symmetric", "bn_eps": 1e-5},
        preprocessing=Preprocessing(interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    ),
}
