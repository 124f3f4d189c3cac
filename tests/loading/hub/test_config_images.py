from __future__ import annotations

from typing import Any

import pytest

from deploytool.loading.hub import config_images
from deploytool.spec import Preprocessing

PROCESSOR = {
    **{"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3, "rescale_factor": 1 / 255},
    **{"size": {"height": 64, "width": 64}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]},
}


def test_an_image_processor_becomes_a_preprocessing() -> None:
    assert config_images.of_processor(PROCESSOR, (64, 64)) == Preprocessing(
        resize=(64, 64), crop=64, interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1)
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"do_normalize": False}, {"mean": (0.0,), "std": (1.0,)}),
        ({"do_rescale": False}, {"scale": 1.0}),
        ({"do_flip_channel_order": True}, {"channels": "BGR"}),
        ({"resample": 2}, {"interpolation": "bilinear"}),
        ({"rescale_factor": 1 / 127.5}, {"scale": 1 / 127.5}),
        ({"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}, {"resize": 72}),
        ({"size": {"shortest_edge": 72}, "crop_size": 64, "do_center_crop": False}, {"resize": (64, 64)}),
    ],
)
def test_each_field_of_an_image_processor_has_its_effect(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    how = config_images.of_processor({**PROCESSOR, **changes}, (64, 64))
    assert {name: getattr(how, name) for name in expected} == expected


def test_without_an_image_processor_the_preprocessing_is_said_to_be_assumed() -> None:
    how = config_images.of_processor({}, (32, 48))
    assert how.assumed
    assert (how.resize, how.crop) == ((32, 48), (32, 48))


def test_a_configuration_of_timm_becomes_a_preprocessing() -> None:
    config = {"crop_pct": 0.875, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    how = config_images.of_timm(config, (224, 224))
    assert (how.resize, how.crop, how.interpolation) == (256, 224, "bicubic")
    assert (how.mean, how.std, how.assumed) == ((0.5,) * 3, (0.5,) * 3, False)
    assert config_images.of_timm({"crop_pct": 1.0}, (96, 128)).resize == (96, 128)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"0": "cat", "1": "dog"}, ("cat", "dog")),
        ({1: "dog", 0: "cat\n"}, ("cat?", "dog")),
        ({"0": "LABEL_0", "1": "LABEL_1"}, ()),
        ({"1": "cat", "2": "dog"}, ()),
        ({"a": "cat"}, ()),
        (None, ()),
    ],
)
def test_class_names_come_from_labels_that_are_names(labels: Any, names: tuple[str, ...]) -> None:
    assert config_images.classes(labels) == names
