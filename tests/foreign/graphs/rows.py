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
    arguments of timm.create_model; `maker` names the function that makes the files, or the file in a package. `axes`
    are the axes of the batch in the inputs and outputs of a given graph where it is not the first, -1 for none;
    `values` are the values of inputs that are no tokens, masks or noise. `batch` is empty where the file fixes it.
    """

    name: str
    origin: Origin
    model: str
    arguments: tuple[str, ...] = ()
    maker: str = ""
    create: tuple[tuple[str, int], ...] = ()
    expected: str = ""
    axes: tuple[tuple[str, int], ...] = ()
    values: tuple[tuple[str, int], ...] = ()
    batch: str = "1:2:4"


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
    _timm("mixer_s16_224", 96, img_size=96),
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


def _carried(
    name: str,
    file: str,
    *arguments: str,
    axes: tuple[tuple[str, int], ...] = (),
    values: tuple[tuple[str, int], ...] = (),
    batch: str = Row.batch,
) -> Row:
    return Row(name, Origin.CARRIED, "{made}/model.onnx", arguments, file, axes=axes, values=values, batch=batch)


def _hostile(
    name: str, maker: str, expected: str = "", axes: tuple[tuple[str, int], ...] = (), batch: str = Row.batch
) -> Row:
    model = "{made}/model.onnx"
    return Row(name, Origin.HOSTILE, model, maker=maker, expected=expected, axes=axes, batch=batch)


_PICTURES = ("--data", "{made}/pictures")  # of text, which the networks of rapidocr were trained on
CARRIED = (
    _carried("magika", "magika/models/standard_v3_3/model.onnx", "--input", "bytes=2048:int32:257"),
    _carried(
        "rapidocr classifier",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        *("--input", "x=3x48x192", *_PICTURES, "--mean", "0.5", "--std", "0.5"),
    ),
    _carried(
        "rapidocr detector",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        *("--input", "x=3x96x96", *_PICTURES, "--preprocess", "imagenet"),
    ),
    _carried(
        "rapidocr recogniser",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        *("--input", "x=3x48x160", *_PICTURES, "--mean", "0.5", "--std", "0.5"),
    ),
    _carried(
        "silero-vad",
        "silero_vad/data/silero_vad_16k_op15.onnx",
        *("--size", "sequence=576"),
        axes=(("state", 1), ("stateN", 1), ("sr", -1)),
        values=(("sr", 16000),),
        batch="",
    ),
    _carried(
        "silero-vad sequence",
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        *("--size", "sequence_length=2:4:8"),
        axes=(("input", -1), ("speech_probs", -1)),
        batch="",
    ),
    _carried("ddddocr", "ddddocr/common_old.onnx", "--size", "image_width=128", batch=""),
    _carried("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx"),
)
HOSTILE = (
    _hostile("a branch on the data", "branch"),
    _hostile("a loop", "loop"),
    _hostile("no batch axis", "no_batch", axes=(("x", -1), ("y", -1)), batch="1"),
    _hostile("the batch second", "elsewhere", axes=(("x", 1), ("y", 1))),
    _hostile("IR 7, opset 11", "old"),
    _hostile("IR 12, opset 23", "new"),
    _hostile("FP16 inputs", "narrow"),
    _hostile("BF16 inputs", "bfloat", expected="bfloat16"),
    _hostile("integer and boolean inputs", "integers"),
    _hostile("QDQ inside", "quantised"),
    _hostile("external data", "external"),
    _hostile("a constant output", "constant"),
    _hostile("NMS", "nms", expected="depends on the data", batch=""),
)
ROWS = (*TIMM, *TRANSFORMERS, *CARRIED, *HOSTILE)
