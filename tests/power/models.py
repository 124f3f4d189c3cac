"""The models that the checks are tried on: every family of the zoo, on images so small that thousands can be tried."""

from __future__ import annotations

from dataclasses import replace

from deploytool import catalog
from deploytool.spec import Model, Tensor

MODELS = (
    *("shufflenet_g3_x0_25", "shufflenet_g8_x0_25", "mixnet_s", "squeezenet1_1", "mobilenet_v1_025"),
    "mobilenet_v1_cifar",
)
SIDE = 64


def small(name: str) -> Model:
    """A model of the zoo that takes images of 64 × 64, or of what it takes if that is less."""
    found = catalog.find(name)
    side = min(SIDE, found.preprocessing.window[0])
    seen = replace(found.preprocessing, resize=side, crop=side)
    return replace(found, inputs=(Tensor(found.inputs[0].name, ("batch", 3, side, side)),), preprocessing=seen)
