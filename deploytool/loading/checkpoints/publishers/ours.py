"""The names of the zoo itself, as in `state_dict()`: weights trained with this tool, or files it wrote."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.loading.checkpoints.key_maps import Family

FAMILIES: Mapping[str, Family] = {
    "shufflenet": Family(key_pattern=r"stage[234]\.\d\.compress\."),
    "squeezenet": Family(key_pattern=r"features\.\d+\.squeeze\."),
    "mixnet": Family(key_pattern=r"blocks\.\d\.\d\.conv_pw\.\d\."),
    "mobilenet": Family(key_pattern=r"blocks\.3\.5\."),
}
