"""Natural images for measuring faults: crops of the sample photographs of scikit-image and scikit-learn."""

from __future__ import annotations

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

from deploytool.data import images
from deploytool.spec import Preprocessing

_NAMES = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "hubble_deep_field", "retina", "rocket")


def crops(count: int, preprocessing: Preprocessing) -> images.Pixels:
    """`count` crops of random size and position, half of them mirrored, resized for the model."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in _NAMES]
    photographs += [Image.fromarray(array) for array in load_sample_images().images]
    pixels = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        side = int(rng.integers(min(photograph.size) // 4, min(photograph.size)))
        left, top = (int(rng.integers(length - side + 1)) for length in photograph.size)
        crop = photograph.crop((left, top, left + side, top + side))
        if rng.integers(2):
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels.append(images.fit(np.asarray(crop), preprocessing))
    return np.stack(pixels)
