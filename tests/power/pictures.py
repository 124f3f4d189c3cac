"""Natural images to judge faults on: crops of the photographs that scikit-image and scikit-learn carry."""

from __future__ import annotations

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

from deploytool.data import images
from deploytool.spec import Preprocessing

_NAMES = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "hubble_deep_field", "retina", "rocket")


def crops(count: int, preprocessing: Preprocessing) -> images.Pixels:
    """`count` crops of random size and place, half of them mirrored, as a user's photographs would reach the model."""
    rng = np.random.default_rng(0)
    found = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in _NAMES]
    found += [Image.fromarray(each) for each in load_sample_images().images]
    pixels = []
    for number in range(count):
        picture = found[number % len(found)]
        side = int(rng.integers(min(picture.size) // 4, min(picture.size)))
        left, top = (int(rng.integers(length - side + 1)) for length in picture.size)
        cut = picture.crop((left, top, left + side, top + side))
        if rng.integers(2):
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels.append(images.fit(np.asarray(cut), preprocessing))
    return np.stack(pixels)
