"""The models of `make power`: every family of the zoo, on small images, and foreign architectures."""

from __future__ import annotations

from dataclasses import replace

from deploytool.loading import catalog
from deploytool.spec import BATCH, Fill, Model, Preprocessing, Tensor
from tests.foreign.table import MASKED, NET_TABLE, Net

ZOO = (
    *("shufflenet_g3_x0_25", "shufflenet_g8_x0_25", "mixnet_s", "squeezenet1_1", "mobilenet_v1_025"),
    "mobilenet_v1_cifar",
)
FOREIGN = ("residual", "dense", "inception", "convnext", "unet", "yolo_together", "vit", "gpt_large", "gru", "graph")
TRANSFORMER_NETS = (
    Net("transformers", "whisper", ("mel=12x24", "mel=12x40")),
    Net("transformers", "t5", MASKED),
    *(Net("transformers", name) for name in ("segformer", "yolo_anchors")),
)
ATTENTION = ("bert", "gpt_infinite", "llama", "vit", "swin", "detr", "whisper", "t5", "segformer", "yolo_anchors")
MODELS = (*ZOO, *FOREIGN, *(name for name in ATTENTION if name not in FOREIGN))
SIDE = 64


def small(name: str, seed: int = 0) -> Model:
    """A zoo model with images of at most 64 × 64, or a foreign model.

    `seed` is that of the weights of a foreign model; those of a zoo model depend on the seed of the run.
    """
    return small_zoo(name) if name in ZOO else _foreign(name, seed)


def small_zoo(name: str) -> Model:
    """A zoo model with images of at most 64 × 64."""
    model = catalog.find(name)
    side = min(SIDE, model.preprocessing.crop_size[0])
    preprocessing = replace(model.preprocessing, resize=side, crop=side)
    image = Tensor(model.inputs[0].name, (BATCH, 3, side, side))
    return replace(model, inputs=(image,), preprocessing=preprocessing)


def _foreign(name: str, seed: int) -> Model:
    net = next(net for net in (*NET_TABLE, *TRANSFORMER_NETS) if net.factory == name)
    fills = {"attention_mask": Fill.MASK}
    inputs = tuple(
        Tensor(each.name, (BATCH, *each.shape), each.dtype, each.below, fills.get(each.name, Fill.RANDOM))
        for each in net.tensors(0)
    )
    preprocessing = Preprocessing()
    if preprocessing.images(inputs):
        side = int(inputs[0].shape[-1])
        preprocessing = replace(preprocessing, resize=side, crop=side)
    options = {"size": 0, "seed": seed}
    return Model(name, f"{net.path}:{net.factory}", options, inputs, (), preprocessing)
