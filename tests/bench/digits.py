"""The whole life of a model on data everybody has: `make digits`.

Scikit-learn's handwritten digits become folders of pictures; a small MobileNet learns them by the published recipe, is
exported with its weights, and every file on the road is judged on the digits kept for the test.
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


def write(folder: Path) -> None:
    """The digits as folders: train and test, each with one folder a digit, 8 × 8 grey made 32 × 32 RGB."""
    digits, labels = load_digits(return_X_y=True)
    grey = np.kron((digits.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8), np.ones((1, 4, 4), np.uint8))
    for place, number in enumerate(np.random.default_rng(0).permutation(len(labels))):
        room = folder / ("test" if place < TEST else "train") / str(labels[number])
        room.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey[number]).convert("RGB").save(room / f"{number:04}.png")


def deploytool(folder: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "deploytool", *words], cwd=folder, check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "digits")
        deploytool(folder, "train", *MODEL, "--data", "digits", "--no-flip", "--out", "learned")
        learned = ("--weights", "learned/weights.safetensors", "--data", "digits/test", "--images", str(TEST))
        deploytool(folder, "export", *MODEL, *learned, "--trt")


if __name__ == "__main__":
    main()
