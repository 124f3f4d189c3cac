"""Our own names: what a definition's `state_dict()` returns, from training here or from a file this tool wrote."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.loading.checkpoints.key_maps import Family

FAMILIES: Mapping[str, Family] = {
    "shufflenet": Family(sign=r"stage[234]\.\d\.compress\."),
    "squeezenet": Family(sign=r"features\.\d+\.squeeze\."),
    "mixnet": Family(sign=r"blocks\.\d\.\d\.conv_pw\.\d\."),
    "mobilenet": Family(sign=r"blocks\.3\.5\."),
}
