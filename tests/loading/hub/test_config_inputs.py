from __future__ import annotations

from typing import Any

import pytest

from deploytool.errors import BadInput
from deploytool.loading.hub import config_inputs
from deploytool.loading.hub.config_inputs import Description
from deploytool.spec import Fill, Range, Tensor

BERT = {"model_type": "bert", "vocab_size": 99, "type_vocab_size": 2, "max_position_embeddings": 64}
TEXT = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "labels", "kwargs")
WHISPER = {"num_mel_bins": 80, "max_source_positions": 1500, "is_encoder_decoder": True, "vocab_size": 51865}
CLIP = {"text_config": {"vocab_size": 50, "max_position_embeddings": 20}, "vision_config": {"image_size": 32}}


def described(
    config: dict[str, Any], parameters: tuple[str, ...], main: str = "", processor: dict[str, Any] | None = None
) -> Description:
    return Description(config, parameters, main or parameters[0], processor or {})


def inputs_of(
    config: dict[str, Any], parameters: tuple[str, ...], processor: dict[str, Any] | None = None
) -> dict[str, Tensor]:
    found = config_inputs.inputs(described(config, parameters, processor=processor), "hf:any")
    return {tensor.name: tensor for tensor in found}


def test_an_encoder_of_text_takes_tokens_a_mask_and_token_types() -> None:
    found = inputs_of(BERT, TEXT)
    assert list(found.values()) == [
        Tensor("input_ids", ("batch", "sequence"), "int64", 99),
        Tensor("attention_mask", ("batch", "sequence"), "int64", 2, Fill.MASK),
        Tensor("token_type_ids", ("batch", "sequence"), "int64", 2),
    ]


def test_without_token_types_in_the_vocabulary_there_is_no_such_input() -> None:
    assert list(inputs_of({**BERT, "type_vocab_size": 1}, TEXT)) == ["input_ids", "attention_mask"]
    assert list(inputs_of(BERT, ("input_ids", "attention_mask"))) == ["input_ids", "attention_mask"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (BERT, Range(8, 64, 64)),
        ({"vocab_size": 9, "n_positions": 1024}, Range(8, 128, 512)),
        ({"vocab_size": 9}, Range(8, 128, 512)),
        ({**BERT, "max_position_embeddings": 4}, Range(4, 4, 4)),
        ({**BERT, "model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, Range(8, 128, 512)),
        ({**BERT, "model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}, Range(8, 64, 64)),
    ],
)
def test_the_sequence_stays_within_the_position_embeddings(config: dict[str, Any], expected: Range) -> None:
    whole = described(config, TEXT)
    assert config_inputs.sizes(whole, config_inputs.inputs(whole, "hf:any")) == {"sequence": expected}


def test_a_model_that_pads_to_a_window_has_a_fixed_length() -> None:
    whole = described({**BERT, "model_type": "longformer", "max_position_embeddings": 4098, "pad_token_id": 1}, TEXT)
    found = config_inputs.inputs(whole, "hf:any")
    assert {tensor.shape for tensor in found} == {("batch", 128)}
    assert config_inputs.sizes(whole, found) == {}


def test_an_encoder_and_decoder_takes_tokens_of_both() -> None:
    config = {"vocab_size": 99, "is_encoder_decoder": True}
    found = inputs_of(config, ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask"))
    assert found["decoder_input_ids"] == Tensor("decoder_input_ids", ("batch", "decoder_sequence"), "int64", 99)
    assert "decoder_attention_mask" not in found


def test_an_image_model_takes_pixels_of_its_size() -> None:
    parameters = ("pixel_values", "labels", "kwargs")
    assert inputs_of({"image_size": 48}, parameters)["pixel_values"].shape == ("batch", 3, 48, 48)
    assert inputs_of({"image_size": [32, 64], "num_channels": 1}, parameters)["pixel_values"].shape == (
        *("batch", 1),
        *(32, 64),
    )
    assert inputs_of({}, parameters)["pixel_values"].shape == ("batch", 3, 224, 224)
    assert inputs_of({"image_size": 32, "num_frames": 4}, parameters)["pixel_values"].shape == ("batch", 4, 3, 32, 32)


@pytest.mark.parametrize(
    ("processor", "plane"),
    [
        ({"size": {"height": 96, "width": 64}}, (96, 64)),
        ({"size": 80}, (80, 80)),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, (224, 224)),
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": False}, (256, 256)),
        ({"size": "odd"}, (32, 32)),
    ],
)
def test_the_image_processor_determines_the_size(processor: dict[str, Any], plane: tuple[int, int]) -> None:
    assert config_inputs.image_size(described({"image_size": 32}, ("pixel_values",), processor=processor)) == plane


def test_a_detector_takes_the_mask_of_a_padded_image() -> None:
    parameters = ("pixel_values", "pixel_mask")
    found = inputs_of({}, parameters, {"size": {"height": 96, "width": 64}, "do_pad": True})
    assert found["pixel_mask"] == Tensor("pixel_mask", ("batch", 96, 64), "int64", 2, Fill.MASK)
    assert "pixel_mask" not in inputs_of({}, parameters, {"do_pad": False})


def test_speech_models_take_samples_or_spectrograms() -> None:
    waveform = described({"vocab_size": 32}, ("input_values", "attention_mask"), processor={"sampling_rate": 8000})
    found = config_inputs.inputs(waveform, "hf:any")
    assert [tensor.shape for tensor in found] == [("batch", "samples")]
    assert config_inputs.sizes(waveform, found) == {"samples": Range(4000, 8000, 16000)}
    masked = inputs_of({}, ("input_values", "attention_mask"), {"return_attention_mask": True})
    assert masked["attention_mask"] == Tensor("attention_mask", ("batch", "samples"), "int64", 2, Fill.MASK)
    ast = inputs_of({"num_mel_bins": 128, "max_length": 1024}, ("input_values",))
    assert ast["input_values"].shape == ("batch", 1024, 128)
    whisper = inputs_of(WHISPER, ("input_features", "attention_mask", "decoder_input_ids"))
    assert {name: tensor.shape for name, tensor in whisper.items()} == {
        "input_features": ("batch", 80, 3000),
        "decoder_input_ids": ("batch", "decoder_sequence"),
    }


def test_a_model_of_text_and_images_takes_both_from_their_own_parts() -> None:
    found = inputs_of(CLIP, ("input_ids", "pixel_values", "attention_mask"))
    assert found["input_ids"].below == 50
    assert found["pixel_values"].shape == ("batch", 3, 32, 32)
    assert list(found) == ["input_ids", "pixel_values", "attention_mask"]


def test_a_main_input_that_is_not_understood_is_refused_with_the_option_that_declares_it() -> None:
    with pytest.raises(BadInput, match="past_values") as refused:
        inputs_of({}, ("past_values", "labels"))
    assert "--input past_values=" in refused.value.remedy
