"""Counts the matches of every known issue in graphs of the zoo, of the tests' blocks and of transformers.

    python -m tests.known_issues.survey [zoo|blocks|transformers ...]

The blocks are exported with both exporters, the others with the TorchScript exporter, all with random weights, and FP16
as far as the weights go. `transformers` needs the packages of `make foreign-models`.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deploytool.known_issues import catalog as known
from deploytool.loading import catalog, factory
from tests.known_issues.exported import IMAGE, Exporter, exported
from tests.user_models import known_issues as blocks

Case = tuple[str, nn.Module, tuple[Tensor, ...]]

_BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
_BACKBONE |= {"out_features": ["stage2", "stage3", "stage4"]}
_DETECTOR = {"encoder_hidden_dim": 32, "encoder_in_channels": [16, 16, 32], "d_model": 32, "num_queries": 12}
_DETECTOR |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_layers": 2, "num_denoising": 0}
_DETECTOR |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_in_channels": [32, 32, 32]}
_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_VIT |= {"image_size": 32, "patch_size": 8}
_STAGES = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]}
_SAM = _VIT | {"image_size": 64, "window_size": 4, "global_attn_indexes": [1], "pretrain_image_size": 32}
_TEXT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}

# Name of the class of the model and of its configuration, the configuration, the side of the image, whether in FP16.
_TRANSFORMERS: tuple[tuple[str, str, dict[str, Any], int, bool], ...] = (
    ("RTDetrForObjectDetection", "RTDetrConfig", _DETECTOR, 64, False),
    ("RTDetrV2ForObjectDetection", "RTDetrV2Config", _DETECTOR, 64, False),
    ("DFineForObjectDetection", "DFineConfig", _DETECTOR, 64, False),
    ("SegformerForSemanticSegmentation", "SegformerConfig", {**_STAGES, "decoder_hidden_size": 16}, 64, False),
    ("PvtForImageClassification", "PvtConfig", {**_STAGES, "image_size": 64}, 64, False),
    ("DINOv3ViTModel", "DINOv3ViTConfig", {**_VIT, "num_register_tokens": 4}, 32, False),
    ("DINOv3ViTModel", "DINOv3ViTConfig", {**_VIT, "num_register_tokens": 4}, 32, True),
    ("Sam3ViTModel", "Sam3ViTConfig", _SAM, 64, False),
    ("Sam3ViTModel", "Sam3ViTConfig", _SAM, 64, True),
    ("ViTForImageClassification", "ViTConfig", _VIT, 32, True),
    ("Dinov2Model", "Dinov2Config", {**_VIT, "mlp_ratio": 2}, 32, True),
    ("LlamaModel", "LlamaConfig", _TEXT, 0, False),
    ("BertModel", "BertConfig", _TEXT, 0, False),
)


class Plain(nn.Module):
    """A model of transformers with tensors as its outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        outputs = self.model(x) if mask is None else self.model(x, attention_mask=mask)
        return tuple(value for value in outputs.values() if isinstance(value, Tensor))


def zoo() -> Iterator[Case]:
    """Every model of the zoo, at the smallest input that it takes."""
    factory.mount_zoo()
    for model in catalog.models():
        side = 32 if "cifar" in model.name else 64
        yield model.name, factory.resolve(model.factory)(**model.options), (torch.zeros(2, 3, side, side),)


def of_tests() -> Iterator[Case]:
    """The blocks that match, and similar ones."""
    frames = (torch.zeros(2, 8, 16), torch.full((2,), 16))
    yield "deformable", blocks.Deformable(), (IMAGE,)
    yield "deformable without softmax", blocks.Deformable(weighted=False), (IMAGE,)
    yield "reduced keys", blocks.Reduced(), (IMAGE,)
    yield "reduced keys, overlapping", blocks.Reduced(kernel=3), (IMAGE,)
    yield "rotary in FP16", blocks.Rotary().half(), (IMAGE.half(),)
    yield "rotary in FP32", blocks.Rotary(), (IMAGE,)
    yield "rotary after a prefix", blocks.Rotary(prefix=3), (IMAGE,)
    yield "no rotation", blocks.Rotary(prefix=3, rotate="none").half(), (IMAGE.half(),)
    yield "lengths", blocks.Lengths(), frames
    yield "lengths in integers", blocks.Lengths(in_floats=False), frames
    yield "lengths without strides", blocks.Lengths(strided=False), frames


def of_transformers() -> Iterator[Case]:
    """Small models of transformers."""
    library: Any = importlib.import_module("transformers")
    for name, config, values, side, is_half in _TRANSFORMERS:
        detector = {"backbone_config": library.RTDetrResNetConfig(**_BACKBONE)} if "d_model" in values else {}
        model = Plain(getattr(library, name)(getattr(library, config)(**values, **detector)))
        inputs = torch.zeros(2, 3, side, side) if side else torch.ones(2, 8, dtype=torch.long)
        model, inputs = (model.half(), inputs.half()) if is_half else (model, inputs)
        yield f"{name}{' in FP16' if is_half else ''}", model, (inputs,)
    speech = {"conv_dim": [16] * 3, "conv_stride": [5, 4, 4], "conv_kernel": [10, 4, 4], **_TEXT}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    wav2vec2 = library.Wav2Vec2Model(library.Wav2Vec2Config(**speech, **positions))
    yield "Wav2Vec2Model", Plain(wav2vec2), (torch.rand(2, 1600), torch.ones(2, 1600, dtype=torch.long))


SETS: dict[str, tuple[Callable[[], Iterator[Case]], tuple[Exporter, ...]]] = {
    "zoo": (zoo, (Exporter.TORCHSCRIPT,)),
    "blocks": (of_tests, tuple(Exporter)),
    "transformers": (of_transformers, (Exporter.TORCHSCRIPT,)),
}


def main(sets: list[str]) -> None:
    """Prints one line for each graph: its nodes, and its matches by issue."""
    for name in sets or list(SETS):
        cases, exporters = SETS[name]
        for label, model, inputs in cases():
            for exporter in exporters:
                with tempfile.TemporaryDirectory() as folder:
                    graph = exported(model, Path(folder), exporter, inputs)
                counts = Counter(match.issue for match in known.find(graph))
                found = ", ".join(f"{issue}: {count}" for issue, count in counts.items()) or "none"
                print(f"{label}, {exporter}, {len(graph.node)} nodes: {found}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
