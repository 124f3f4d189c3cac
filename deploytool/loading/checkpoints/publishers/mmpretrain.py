"""OpenMMLab's mmpretrain (formerly mmcls): ShuffleNet with the paper's shuffle after the depthwise convolution."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.loading.checkpoints.key_maps import SHUFFLENET_UNITS, Family, KeyMap, Options, block_paths, map_blocks
from deploytool.spec import Preprocessing

PARTS = {
    "compress": "g_conv_1x1_compress.conv",
    "compress_bn": "g_conv_1x1_compress.bn",
    "depthwise": "depthwise_conv3x3_bn.conv",
    "depthwise_bn": "depthwise_conv3x3_bn.bn",
    "expand": "g_conv_1x1_expand.conv",
    "expand_bn": "g_conv_1x1_expand.bn",
}


def shufflenet(options: Options) -> KeyMap:
    """Three stages of units in the backbone; the classifier is outside of it."""
    return {
        "stem": "backbone.conv1.conv",
        "stem_bn": "backbone.conv1.bn",
        **map_blocks(SHUFFLENET_UNITS, block_paths("backbone.layers.{}.{}", (4, 8, 4)), PARTS),
        "classifier": "head.fc",
    }


FAMILIES: Mapping[str, Family] = {
    "shufflenet": Family(
        key_pattern=r"backbone\.layers\.\d\.\d\.g_conv_1x1_",
        names=shufflenet,
        options={
            "stem": "imagenet",
            "shuffle_order": "paper",
            "shuffle_place": "after",
            "concat_order": "shortcut_first",
            "classifier_bias": True,
        },
        preprocessing=Preprocessing(),
    ),
}
