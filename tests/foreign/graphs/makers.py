"""Makes the folders that the rows of transformers are exported from, with small random weights, and timm's weights.

Run as a program with a row's name and a folder. The weights are seeded; each maker sets the sizes of one architecture.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tests.foreign.graphs import hostile
from tests.foreign.graphs.rows import ROWS, Origin, Row

_TEXT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT |= {"intermediate_size": 64, "max_position_embeddings": 64}
_VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_VISION |= {"image_size": 32, "patch_size": 8}
_PIXELS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_normalize": True, "do_rescale": True}
_LABELS = {"id2label": {0: "cat", 1: "dog", 2: "bird"}, "label2id": {"cat": 0, "dog": 1, "bird": 2}}


def _processor(side: int, **more: Any) -> dict[str, Any]:
    return {**_PIXELS, "size": {"height": side, "width": side}, "rescale_factor": 1 / 255, "resample": 3, **more}


def _resnet(t: Any) -> Any:
    return t.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def _detr(t: Any) -> tuple[Any, dict[str, Any]]:
    config = t.DetrConfig(
        backbone_config=_resnet(t), use_timm_backbone=False, backbone=None, d_model=32, encoder_layers=1,
        decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
        num_queries=12, use_pretrained_backbone=False, **_LABELS,
    )  # fmt: skip
    return t.DetrForObjectDetection(config), _processor(96, do_pad=True)


def _rt_detr(t: Any) -> tuple[Any, dict[str, Any]]:
    backbone = t.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = t.RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=32, encoder_in_channels=[16, 16, 32], d_model=32, num_queries=12,
        encoder_ffn_dim=64, decoder_ffn_dim=64, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        decoder_in_channels=[32, 32, 32], num_denoising=0, **_LABELS,
    )  # fmt: skip
    return t.RTDetrForObjectDetection(config), _processor(64, do_normalize=False)


def _clip(t: Any) -> tuple[Any, dict[str, Any]]:
    text = {**_TEXT, "max_position_embeddings": 20, "eos_token_id": 98, "bos_token_id": 97}
    return t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16)), _processor(32)


def _whisper(t: Any) -> Any:
    return t.WhisperModel(
        t.WhisperConfig(
            vocab_size=99, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=16, max_source_positions=50,
            max_target_positions=40, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )
    )  # fmt: skip


def _wav2vec2(t: Any) -> Any:
    config = t.Wav2Vec2Config(
        **{**_TEXT, "vocab_size": 32}, conv_dim=[16, 16, 16], conv_stride=[5, 4, 4], conv_kernel=[10, 4, 4],
        num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    return t.Wav2Vec2ForCTC(config)


def _llama(t: Any) -> Any:
    return t.LlamaForCausalLM(t.LlamaConfig(**_TEXT, num_key_value_heads=2, tie_word_embeddings=False))


def _distilbert(t: Any) -> Any:
    config = t.DistilBertConfig(
        vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64, **_LABELS
    )
    return t.DistilBertForSequenceClassification(config)


def _bart(t: Any) -> Any:
    config = t.BartConfig(
        vocab_size=99, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
    )  # fmt: skip
    return t.BartModel(config)


def _swin(t: Any) -> tuple[Any, dict[str, Any]]:
    config = t.SwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, **_LABELS
    )
    return t.SwinForImageClassification(config), _processor(32)


def _segformer(t: Any) -> tuple[Any, dict[str, Any]]:
    config = t.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 32], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=32,
        **_LABELS,
    )  # fmt: skip
    return t.SegformerForSemanticSegmentation(config), _processor(64)


def _mobilevit(t: Any) -> tuple[Any, dict[str, Any]]:
    config = t.MobileViTConfig(
        image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64], **_LABELS
    )
    more = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}, "do_center_crop": True}
    processor = {**_processor(64, do_flip_channel_order=True, do_normalize=False), **more}
    return t.MobileViTForImageClassification(config), processor


def _mpnet(t: Any) -> Any:
    return t.MPNetModel(t.MPNetConfig(**{**_TEXT, "max_position_embeddings": 66}))


def _deberta(t: Any) -> Any:
    config = t.DebertaV2Config(
        **_TEXT, relative_attention=True, position_biased_input=False, pos_att_type=["p2c", "c2p"], position_buckets=16,
        share_att_key=True, norm_rel_ebd="layer_norm", type_vocab_size=0, **_LABELS,
    )  # fmt: skip
    return t.DebertaV2ForSequenceClassification(config)


def _ast(t: Any) -> Any:
    size = {name: _VISION[name] for name in _VISION if name not in ("image_size", "patch_size")}
    config = t.ASTConfig(
        **size, patch_size=4, frequency_stride=2, time_stride=4, max_length=32, num_mel_bins=16, **_LABELS
    )
    return t.ASTForAudioClassification(config)


MAKERS: Mapping[str, Callable[[Any], Any]] = {
    "bert": lambda t: t.BertModel(t.BertConfig(**_TEXT)),
    "roberta": lambda t: t.RobertaForMaskedLM(t.RobertaConfig(**{**_TEXT, "max_position_embeddings": 66})),
    "distilbert": _distilbert,
    "albert": lambda t: t.AlbertModel(t.AlbertConfig(**_TEXT, embedding_size=16)),
    "electra": lambda t: t.ElectraForTokenClassification(t.ElectraConfig(**_TEXT, embedding_size=16, **_LABELS)),
    "deberta_v2": _deberta,
    "mpnet": _mpnet,
    "gpt_2": lambda t: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
    "llama": _llama,
    "t5_encoder": lambda t: t.T5EncoderModel(
        t.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    ),
    "vit": lambda t: (t.ViTForImageClassification(t.ViTConfig(**_VISION, **_LABELS)), _processor(32)),
    "deit": lambda t: (t.DeiTForImageClassificationWithTeacher(t.DeiTConfig(**_VISION, **_LABELS)), _processor(32)),
    "beit": lambda t: (
        t.BeitForImageClassification(t.BeitConfig(**_VISION, use_relative_position_bias=True, **_LABELS)),
        _processor(32),
    ),
    "swin": _swin,
    "convnext": lambda t: (
        t.ConvNextForImageClassification(
            t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], image_size=64, **_LABELS)
        ),
        _processor(64),
    ),
    "segformer": _segformer,
    "detr": _detr,
    "yolos": lambda t: (
        t.YolosForObjectDetection(
            t.YolosConfig(**{**_VISION, "image_size": [32, 32]}, num_detection_tokens=8, **_LABELS)
        ),
        _processor(32),
    ),
    "mobilevit": _mobilevit,
    "whisper_encoder": _whisper,
    "wav2vec2": _wav2vec2,
    "ast": _ast,
    "clip": _clip,
    "rt_detr": _rt_detr,
    "bart": _bart,
}


def make(row: Row, folder: Path) -> None:
    """Fills a folder with what a row is exported from."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if row.origin is Origin.TIMM:
        _make_timm(row, folder)
    elif row.origin is Origin.TRANSFORMERS:
        _make_transformers(row, folder)
    elif row.origin is Origin.CARRIED:
        _copy_carried(row, folder)
    else:
        hostile.make(row.maker, folder)


def _copy_carried(row: Row, folder: Path) -> None:
    """Copies the graph out of an installed package, which is not imported, and makes the pictures of the row."""
    package, _, file = row.maker.partition("/")
    shutil.copy(_package_folder(package) / file, folder / "model.onnx")
    if "{made}/pictures" in row.arguments:
        (folder / "pictures").mkdir(exist_ok=True)
        for name in ("page", "text"):
            picture = Image.open(_package_folder("skimage") / "data" / f"{name}.png").convert("RGB")
            for number in range(8):
                left, top = (number % 2) * picture.width // 2, (number // 2) * picture.height // 4
                crop = picture.crop((left, top, left + picture.width // 2, top + picture.height // 4))
                crop.save(folder / "pictures" / f"{name}{number}.png")


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def _make_timm(row: Row, folder: Path) -> None:
    import timm
    from safetensors.torch import save_file

    module = timm.create_model(row.model.partition(":")[2], **dict(row.create))
    _settle(module)
    state = {name: tensor.clone().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, folder / "weights.safetensors")


def _make_transformers(row: Row, folder: Path) -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    made = MAKERS[row.maker](transformers)
    module, processor = made if isinstance(made, tuple) else (made, {})
    _settle(module)
    module.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def _settle(module: torch.nn.Module) -> None:
    """Statistics and biases that are not constant, and weights that keep the size of activations, as training leaves.

    The initial weights of transformers are so small that the answers are sums of nearly nothing.
    """
    for name, tensor in (*module.named_buffers(), *module.named_parameters()):
        if name.endswith("running_mean"):
            tensor.data.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.data.uniform_(0.7, 1.3)
        elif tensor.dim() == 1 and name.endswith("bias"):
            tensor.data.normal_(0, 0.05)
        elif tensor.dim() > 1 and name.endswith("weight") and tensor.is_floating_point():
            tensor.data.normal_(0, tensor[0].numel() ** -0.5)


if __name__ == "__main__":
    make(next(row for row in ROWS if row.name == sys.argv[1]), Path(sys.argv[2]))
