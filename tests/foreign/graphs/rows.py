"""The table of foreign graphs: the models of timm and transformers, graphs that packages carry, and hostile graphs.

A row says what `deploytool export` is called with; `{made}` stands for the folder that the row's maker filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Origin(Enum):
    """Where a graph comes from."""

    TIMM = "timm"
    TRANSFORMERS = "transformers"
    CARRIED = "carried by a package"
    HOSTILE = "hostile"


@dataclass(frozen=True)
class Row:
    """One graph: `model` and `arguments` are those of the command line.

    `expected` is a part of the message where a refusal is right, empty where the graph must pass. `create` are the
    arguments of timm.create_model; `maker` names the function that makes the files.
    """

    name: str
    origin: Origin
    model: str
    arguments: tuple[str, ...] = ()
    maker: str = ""
    create: tuple[tuple[str, int], ...] = ()
    expected: str = ""


def _timm(name: str, side: int, **create: int) -> Row:
    arguments = [f"--arg={option}={value}" for option, value in create.items()]
    size = () if "img_size" in create else ("--input", f"3x{side}x{side}")
    weights = ("--weights", "{made}/weights.safetensors")
    return Row(
        f"timm {name}", Origin.TIMM, f"timm:{name}", (*arguments, *size, *weights), "timm", tuple(create.items())
    )


def _transformers(name: str, *arguments: str) -> Row:
    maker = name.replace(" ", "_").replace("-", "_").lower()
    return Row(name, Origin.TRANSFORMERS, "hf:{made}", arguments, maker)


TIMM = (
    _timm("resnet18", 96),
    _timm("mobilenetv3_small_100", 96),
    _timm("efficientnet_b0", 96),
    _timm("convnext_atto", 96),
    _timm("regnetx_002", 96),
    _timm("repvgg_a0", 96),
    _timm("ghostnet_100", 96),
    _timm("hgnetv2_b0", 96),
    _timm("edgenext_xx_small", 96),
    _timm("mobilevit_xxs", 128),
    _timm("poolformer_s12", 96),
    _timm("test_vit", 160),
    _timm("vit_tiny_patch16_224", 96, img_size=96, depth=2),
    _timm("deit_tiny_distilled_patch16_224", 96, img_size=96, depth=2),
    _timm("test_maxvit", 160),
    _timm("test_coatnet", 160),
    _timm("test_nfnet", 96),
    _timm("test_mambaout", 96),
    _timm("cait_xxs24_224", 96, img_size=96, depth=2),
    _timm("mixer_s16_224", 96, img_size=96, num_blocks=2),
)
TRANSFORMERS = (
    _transformers("BERT"),
    _transformers("RoBERTa"),
    _transformers("DistilBERT"),
    _transformers("ALBERT"),
    _transformers("ELECTRA"),
    _transformers("DeBERTa-v2"),
    _transformers("MPNet"),
    _transformers("GPT-2"),
    _transformers("Llama"),
    _transformers("T5 encoder"),
    _transformers("ViT"),
    _transformers("DeiT"),
    _transformers("BEiT"),
    _transformers("Swin"),
    _transformers("ConvNeXt"),
    _transformers("SegFormer"),
    _transformers("DETR"),
    _transformers("YOLOS"),
    _transformers("MobileViT"),
    _transformers("Whisper encoder", "--arg=part=encoder"),
    _transformers("Wav2Vec2"),
    _transformers("AST"),
    _transformers("CLIP"),
    _transformers("RT-DETR"),
    _transformers("BART"),
)
ROWS = (*TIMM, *TRANSFORMERS)
