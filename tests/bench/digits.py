"""Trains, exports and validates a model on a public data set: `make digits`.

It writes scikit-learn's handwritten digits as image folders, trains a small MobileNet on them with the published
recipe, exports it with its weights and measures every file on the digits of the test set.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TEST = 360
MODEL = ("mobilenet_v1_cifar", "--arg", "width=0.25")


def write_folders(folder: Path) -> None:
    """Writes folders train and test with one sub-folder a digit, the images enlarged from 8 × 8 grey to 32 × 32 RGB."""
    digits, labels = load_digits(return_X_y=True)
    grey = np.kron((digits.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8), np.ones((1, 4, 4), np.uint8))
    for index, number in enumerate(np.random.default_rng(0).permutation(len(labels))):
        image_folder = folder / ("test" if index < TEST else "train") / str(labels[number])
        image_folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey[number]).convert("RGB").save(image_folder / f"{number:04}.png")


def deploytool(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "deploytool", *arguments], cwd=folder, check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folders(folder / "digits")
        deploytool(folder, "train", *MODEL, "--data", "digits", "--no-flip", "--out", "trained")
        options = (
            "--weights",
            "trained/weights.safetensors",
            "--data",
            "digits/test",
            "--images",
            str(TEST),
            "--metric",
            "top1",
        )
        deploytool(folder, "export", *MODEL, *options, "--trt")


if __name__ == "__main__":
    main()
