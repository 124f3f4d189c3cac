"""Megvii's ShuffleNets: inverse shuffle, after the depthwise convolution; input is BGR with values 0 to 255."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.loading.checkpoints.key_maps import SHUFFLENET_UNITS, Family, KeyMap, Options, map_blocks
from deploytool.spec import Preprocessing

PARTS = {
    "compress": "branch_main_1.0",
    "compress_bn": "branch_main_1.1",
    "depthwise": "branch_main_1.3",
    "depthwise_bn": "branch_main_1.4",
    "expand": "branch_main_2.0",
    "expand_bn": "branch_main_2.1",
}


def shufflenet(options: Options) -> KeyMap:
    """Sixteen units, numbered consecutively across stages."""
    return {
        "stem": "first_conv.0",
        "stem_bn": "first_conv.1",
        **map_blocks(SHUFFLENET_UNITS, [f"features.{unit}" for unit in range(16)], PARTS),
        "classifier": "classifier.0",
    }


FAMILIES: Mapping[str, Family] = {
    "shufflenet": Family(
        key_pattern=r"features\.\d+\.branch_main_",
        names=shufflenet,
        options={
            "stem": "imagenet",
            "shuffle_order": "megvii",
            "shuffle_place": "after",
            "concat_order": "shortcut_first",
            "classifier_bias": False,
        },
        preprocessing=Preprocessing(channels="BGR", scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    ),
}
