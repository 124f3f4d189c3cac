"""timm: MixNet and MobileNet v1; the zoo uses the same names.

`mixnet_s` and `tf_mixnet_s` have the same keys and shapes: the requested model decides the padding. MobileNet weights
of timm require ReLU6.
"""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.loading.checkpoints.key_maps import Family
from deploytool.spec import Preprocessing

FAMILIES: Mapping[str, Family] = {
    "mixnet": Family(
        key_pattern=r"blocks\.\d\.\d\.conv_pw\.\d\.",
        preprocessing=Preprocessing(interpolation="bicubic"),
    ),
    "mobilenet": Family(
        key_pattern=r"blocks\.3\.5\.",
        options={"stem": "imagenet", "activation": "relu6", "padding": "symmetric", "bn_eps": 1e-5},
        preprocessing=Preprocessing(interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    ),
}
