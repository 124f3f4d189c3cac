"""Derives the inputs of a transformers model from its configuration, as plain data: names, types, shapes, bounds.

A rule for each parameter of `forward` says whether it is an input and what shape it has. Parameters that only replace
others (`inputs_embeds`), that carry state (`past_key_values`) or targets (`labels`) have no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploytool.errors import BadInput
from deploytool.spec import BATCH, Fill, Range, Tensor

SEQUENCE, DECODER_SEQUENCE, SAMPLES, FRAMES = "sequence", "decoder_sequence", "samples", "frames"
_SHORTEST, _TYPICAL, _LONGEST = 8, 128, 512  # tokens, where the model does not allow fewer
_SAMPLING_RATE = 16000  # Hz, of speech models
_IMAGE_SIZE = 224  # pixels, where neither the configuration nor the image processor states one
_PADDED_WHOLE = frozenset(  # pad their inputs to a multiple of a window: their length is fixed at export
    ("longformer", "led", "big_bird", "bigbird_pegasus", "reformer", "funnel", "perceiver", "xlnet")
)
_OFFSET_POSITIONS = frozenset(  # positions begin after the padding token
    ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "mpnet", "longformer", "ibert", "esm")
)

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Description:
    """What a model's files say: its configuration, the parameters of `forward`, and its processor's configuration.

    `main` is the parameter that transformers calls the main input.
    """

    config: Config
    parameters: tuple[str, ...]
    main: str
    processor: Config

    @property
    def text(self) -> Config:
        """The configuration of the part that reads text."""
        return _part(self.config, "text_config", "encoder")

    @property
    def vision(self) -> Config:
        """The configuration of the part that sees images."""
        return _part(self.config, "vision_config", "encoder")

    @property
    def audio(self) -> Config:
        """The configuration of the part that hears."""
        return _part(self.config, "audio_config", "encoder")

    @property
    def reads_text(self) -> bool:
        """Whether token ids are an input."""
        return "input_ids" in self.parameters and isinstance(self.text.get("vocab_size"), int)


def inputs(described: Description, name: str) -> tuple[Tensor, ...]:
    """The inputs, in the order of the parameters; raises BadInput if the main one is not understood."""
    found = [tensor for parameter in described.parameters if (tensor := _input(described, parameter))]
    if described.main not in [tensor.name for tensor in found]:
        problem = f"the configuration of {name} does not tell the shape of its input {described.main}"
        raise BadInput(problem, f"declare all inputs: --input {described.main}=SIZES")
    return tuple(found)


def sizes(described: Description, found: Sequence[Tensor]) -> dict[str, Range]:
    """The default range of every dynamic dimension but the batch."""
    most = _longest(described.text)
    rate = described.processor.get("sampling_rate") or _SAMPLING_RATE
    ranges = {
        SEQUENCE: Range(min(_SHORTEST, most), min(_TYPICAL, most), most),
        DECODER_SEQUENCE: Range(1, min(_SHORTEST, most), most),
        SAMPLES: Range(rate // 2, rate, 2 * rate),
        FRAMES: Range(50, 100, 200),
    }
    words = {side for tensor in found for side in tensor.shape[1:]}
    return {word: limits for word, limits in ranges.items() if word in words}


def image_size(described: Description) -> tuple[int, int]:
    """Height and width of the images: those that the image processor makes, or the configuration states."""
    processor = described.processor
    for key in ("crop_size", "pad_size", "size"):
        if key == "crop_size" and processor.get("do_center_crop") is False:
            continue
        if plane := _plane(processor.get(key)):
            return plane
    return _plane(described.vision.get("image_size")) or (_IMAGE_SIZE, _IMAGE_SIZE)


def _plane(size: Any) -> tuple[int, int] | None:
    """Height and width of a size as image processors write it: a number, a pair, sides by name, or a shorter side."""
    if isinstance(size, int) and size > 0:
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return int(size[0]), int(size[1])
    if not isinstance(size, Mapping):
        return None
    if isinstance(size.get("height"), int) and isinstance(size.get("width"), int):
        return size["height"], size["width"]
    shorter = size.get("shortest_edge") or size.get("longest_edge")
    return (shorter, shorter) if isinstance(shorter, int) else None


def _part(config: Config, *names: str) -> Config:
    """The nested configuration of a part, or the whole if there is none."""
    nested = next((config[name] for name in names if isinstance(config.get(name), Mapping)), None)
    return config if nested is None else nested


def _longest(text: Config) -> int:
    """The most tokens that are tested: what the position embeddings allow, at most 512."""
    names = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_source_positions")
    stated = next((text[name] for name in names if isinstance(text.get(name), int) and text[name] > 0), _LONGEST)
    if text.get("model_type") in _OFFSET_POSITIONS:
        stated -= (text.get("pad_token_id") or 1) + 1
    return max(1, min(_LONGEST, stated))


def _input(described: Description, parameter: str) -> Tensor | None:
    """The input for a parameter of `forward`; None if it is none."""
    rule = _RULES.get(parameter)
    return rule(described) if rule else None


def _tokens(described: Description) -> Tensor | None:
    if not described.reads_text:
        return None
    return Tensor("input_ids", (BATCH, _sequence(described)), "int64", described.text["vocab_size"])


def _sequence(described: Description) -> int | str:
    fixed = described.text.get("model_type") in _PADDED_WHOLE
    return min(_TYPICAL, _longest(described.text)) if fixed else SEQUENCE


def _attention_mask(described: Description) -> Tensor | None:
    """The padding of text; of audio only if the feature extractor returns it."""
    if described.reads_text:
        return Tensor("attention_mask", (BATCH, _sequence(described)), "int64", fill=Fill.MASK)
    main = _input(described, described.main) if described.main in ("input_values", "input_features") else None
    if main is None or not described.processor.get("return_attention_mask") or len(main.shape) > 3:
        return None
    axis = 2 if _is_spectrogram_by_bins(described) else 1
    return Tensor("attention_mask", (BATCH, main.shape[axis]), "int64", fill=Fill.MASK)


def _token_types(described: Description) -> Tensor | None:
    kinds = described.text.get("type_vocab_size") or 0
    if not described.reads_text or kinds < 2:
        return None
    return Tensor("token_type_ids", (BATCH, _sequence(described)), "int64", kinds)


def _decoder_tokens(described: Description) -> Tensor | None:
    decoder = _part(described.config, "decoder", "text_config")
    vocabulary = decoder.get("vocab_size") or described.config.get("vocab_size")
    if not described.config.get("is_encoder_decoder") or not isinstance(vocabulary, int):
        return None
    return Tensor("decoder_input_ids", (BATCH, DECODER_SEQUENCE), "int64", vocabulary)


def _pixels(described: Description) -> Tensor:
    config = described.vision
    channels = config.get("num_channels") or config.get("in_channels") or 3
    frames = config.get("num_frames")
    clip = (frames,) if isinstance(frames, int) else ()
    return Tensor("pixel_values", (BATCH, *clip, channels, *image_size(described)))


def _pixel_mask(described: Description) -> Tensor | None:
    if not described.processor.get("do_pad"):
        return None
    return Tensor("pixel_mask", (BATCH, *image_size(described)), "int64", fill=Fill.MASK)


def _waveform(described: Description) -> Tensor:
    """Samples, or for audio spectrogram transformers a spectrogram of fixed size (time × bins)."""
    config = described.audio
    bins, length = config.get("num_mel_bins"), config.get("max_length")
    if isinstance(bins, int) and isinstance(length, int):
        return Tensor("input_values", (BATCH, length, bins))
    return Tensor("input_values", (BATCH, SAMPLES))


def _is_spectrogram_by_bins(described: Description) -> bool:
    """Whether a spectrogram is bins × time, as of Whisper, and of a fixed length."""
    config = described.audio
    return isinstance(config.get("num_mel_bins"), int) and isinstance(config.get("max_source_positions"), int)


def _spectrogram(described: Description) -> Tensor | None:
    config = described.audio
    if isinstance(config.get("input_feat_per_channel"), int):
        features = config["input_feat_per_channel"] * (config.get("input_channels") or 1)
        return Tensor("input_features", (BATCH, FRAMES, features))
    if _is_spectrogram_by_bins(described):
        return Tensor("input_features", (BATCH, config["num_mel_bins"], 2 * config["max_source_positions"]))
    features = config.get("feature_projection_input_dim") or config.get("num_mel_bins")
    return Tensor("input_features", (BATCH, FRAMES, features)) if isinstance(features, int) else None


_RULES: Mapping[str, Callable[[Description], Tensor | None]] = {
    "input_ids": _tokens,
    "attention_mask": _attention_mask,
    "token_type_ids": _token_types,
    "decoder_input_ids": _decoder_tokens,
    "pixel_values": _pixels,
    "pixel_mask": _pixel_mask,
    "input_values": _waveform,
    "input_features": _spectrogram,
}
