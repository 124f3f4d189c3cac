"""The models that the checks are tried on: every family of the zoo, on images so small that thousands can be tried,
and ten architectures that are not ours."""

from __future__ import annotations

from dataclasses import replace

from deploytool.loading import catalog
from deploytool.spec import BATCH, Model, Preprocessing, Tensor
from tests.foreign.table import NET_TABLE

ZOO = (
    *("shufflenet_g3_x0_25", "shufflenet_g8_x0_25", "mixnet_s", "squeezenet1_1", "mobilenet_v1_025"),
    "mobilenet_v1_cifar",
)
FOREIGN = ("residual", "dense", "inception", "convnext", "unet", "yolo_together", "vit", "gpt_large", "gru", "graph")
MODELS = (*ZOO, *FOREIGN)
SIDE = 64


def small(name: str, seed: int = 0) -> Model:
    """A model of the zoo that takes images of 64 × 64, or of what it takes if that is less; or a foreign one.

    seed: that of a foreign model's weights; the zoo's are drawn by the seed of the run.
    """
    if name in FOREIGN:
        return _foreign(name, seed)
    found = catalog.find(name)
    side = min(SIDE, found.preprocessing.crop_size[0])
    seen = replace(found.preprocessing, resize=side, crop=side)
    return replace(found, inputs=(Tensor(found.inputs[0].name, (BATCH, 3, side, side)),), preprocessing=seen)


def _foreign(name: str, seed: int) -> Model:
    net = next(net for net in NET_TABLE if net.factory == name)
    inputs = tuple(Tensor(each.name, (BATCH, *each.shape), each.dtype, each.below) for each in net.tensors(0))
    seen = Preprocessing()
    if seen.images(inputs):
        side = int(inputs[0].shape[-1])
        seen = replace(seen, resize=side, crop=side)
    options = {"size": 0, "seed": seed}
    return Model(name, f"{net.path}:{net.factory}", options, inputs, (), seen)
