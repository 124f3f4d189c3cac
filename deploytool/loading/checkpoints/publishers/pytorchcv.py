"""pytorchcv: all four families as in their papers, blocks numbered from 1; SqueezeResNet is bypass=simple here."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.loading.checkpoints.key_maps import (
    MOBILENET_BLOCKS,
    SHUFFLENET_UNITS,
    Family,
    KeyMap,
    Options,
    block_paths,
    map_blocks,
)
from deploytool.spec import Preprocessing

UNIT = "features.stage{}.unit{}"
SHUFFLENET_PARTS = {
    "compress": "compress_conv1",
    "compress_bn": "compress_bn1",
    "depthwise": "dw_conv2",
    "depthwise_bn": "dw_bn2",
    "expand": "expand_conv3",
    "expand_bn": "expand_bn3",
}
MOBILENET_PARTS = {"conv_dw": "dw_conv.conv", "bn1": "dw_conv.bn", "conv_pw": "pw_conv.conv", "bn2": "pw_conv.bn"}
MIXNET_PARTS = {
    "conv_pw": "exp_conv.conv",
    "bn1": "exp_conv.bn",
    "conv_dw": "conv1.conv",
    "bn2": "conv1.bn",
    "se.conv_reduce": "se.conv1",
    "se.conv_expand": "se.conv2",
    "conv_pwl": "conv2.conv",
    "bn3": "conv2.bn",
}
MIXNET_STAGES = {"s": (2, 4, 3, 3, 3)}  # blocks per stage; other variants have 2, 4, 4, 4, 4
FIRE_PARTS = {"squeeze": "squeeze.conv", "expand1x1": "expand1x1.conv", "expand3x3": "expand3x3.conv"}
# version: indices of the zoo's fire modules, grouped by pytorchcv's stages
FIRES = {"1.0": ((3, 4, 5), (7, 8, 9, 10), (12,)), "1.1": ((3, 4), (6, 7), (9, 10, 11, 12))}


def shufflenet(options: Options) -> KeyMap:
    """Three stages of units."""
    return {
        "stem": "features.init_block.conv",
        "stem_bn": "features.init_block.bn",
        **map_blocks(SHUFFLENET_UNITS, block_paths(UNIT, (4, 8, 4), (1, 1)), SHUFFLENET_PARTS),
        "classifier": "output",
    }


def mobilenet(options: Options) -> KeyMap:
    """Five stages of units."""
    return {
        "conv_stem": "features.init_block.conv",
        "bn1": "features.init_block.bn",
        **map_blocks(MOBILENET_BLOCKS, block_paths(UNIT, (1, 2, 2, 6, 2), (1, 1)), MOBILENET_PARTS),
        "classifier": "output",
    }


def mixnet(options: Options) -> KeyMap:
    """The zoo's first block is part of the stem here, and its last two stages are one."""
    lengths = MIXNET_STAGES.get(str(options.get("variant", "s")), (2, 4, 4, 4, 4))
    merged = (*lengths[:3], lengths[3] + lengths[4])
    return {
        "conv_stem": "features.init_block.conv1.conv",
        "bn1": "features.init_block.conv1.bn",
        "blocks.0.0.conv_dw": "features.init_block.conv2.conv1.conv",
        "blocks.0.0.bn1": "features.init_block.conv2.conv1.bn",
        "blocks.0.0.conv_pw": "features.init_block.conv2.conv2.conv",
        "blocks.0.0.bn2": "features.init_block.conv2.conv2.bn",
        **map_blocks(block_paths("blocks.{}.{}", lengths, (1, 0)), block_paths(UNIT, merged, (1, 1)), MIXNET_PARTS),
        "conv_head": "features.final_block.conv",
        "bn2": "features.final_block.bn",
        "classifier": "output",
    }


def squeezenet(options: Options) -> KeyMap:
    """One stage for each group of fire modules between two max-pools."""
    stages = FIRES.get(str(options.get("version")), FIRES["1.0"])
    ours = [f"features.{fire}" for fires in stages for fire in fires]
    return {
        "features.0": "features.init_block.conv",
        **map_blocks(ours, block_paths(UNIT, [len(fires) for fires in stages], (1, 1)), FIRE_PARTS),
        "classifier.1": "output.final_conv",
    }


PAPER: Options = {
    "stem": "imagenet",
    "shuffle_order": "paper",
    "shuffle_place": "before",
    "concat_order": "main_first",
    "classifier_bias": True,
}
SYMMETRIC: Options = {"padding": "symmetric", "bn_eps": 1e-5}

FAMILIES: Mapping[str, Family] = {
    "shufflenet": Family(r"features\.stage\d\.unit\d\.compress_conv1\.", shufflenet, PAPER, Preprocessing()),
    "mixnet": Family(r"features\.stage\d\.unit\d\.exp_conv\.", mixnet, SYMMETRIC, Preprocessing()),
    "mobilenet": Family(
        r"features\.stage\d\.unit\d\.dw_conv\.conv\.",
        mobilenet,
        {"stem": "imagenet", "activation": "relu", **SYMMETRIC},
        Preprocessing(),
    ),
    "squeezenet": Family(r"features\.stage\d\.unit\d\.squeeze\.conv\.", squeezenet, {}, Preprocessing()),
}
