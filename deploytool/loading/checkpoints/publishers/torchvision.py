"""torchvision: SqueezeNet without bypasses; the zoo uses the same names."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.loading.checkpoints.key_maps import Family
from deploytool.spec import Preprocessing

FAMILIES: Mapping[str, Family] = {
    "squeezenet": Family(
        key_pattern=r"features\.\d+\.squeeze\.", options={"bypass": "none"}, preprocessing=Preprocessing()
    ),
}
