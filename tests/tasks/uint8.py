"""Compares a graph that takes pixels with the graph that takes images, on many images that are normalised here.

    python -m tests.tasks.uint8 --images 10000

exports a model twice, and runs both FP32 graphs in ONNX Runtime: random pixels, synthetic photographs, black and white
pixels, and images of one colour, among them all black and all white. Exits with 1 if an answer deviates by more than
the FP32 tolerance that the run derived from the model's noise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

import deploytool
from deploytool.data import golden, images
from deploytool.loading import catalog
from deploytool.parity import metrics
from deploytool.results.artifact import Kind
from deploytool.spec import Preprocessing, Stage
from tests.pixels import Images, Pixels, by_channel

_MODEL, _SIDE, _AT_ONCE = "mobilenet_v1_cifar", 32, 250
_KINDS = ("random", "dead leaves", "extremes", "one colour")


@dataclass(frozen=True)
class Agreement:
    """The number of images of one kind, the share with equal bits, and the largest error over the largest answer."""

    images: int
    equal: float
    error: float


def drawn(kind: str, count: int, seed: int) -> Pixels:
    """Images of one kind, NHWC; the first two of one colour are all 0 and all 255."""
    rng, shape = np.random.default_rng(seed), (count, _SIDE, _SIDE, 3)
    if kind == "random":
        return rng.integers(0, 256, shape).astype(np.uint8)
    if kind == "dead leaves":
        return images.dead_leaves(count, _SIDE, _SIDE, seed)
    if kind == "extremes":
        return (rng.integers(0, 2, shape) * 255).astype(np.uint8)
    colours = rng.integers(0, 256, (count, 1, 1, 3))
    colours[:1], colours[1:2] = 0, 255
    return np.broadcast_to(colours, shape).astype(np.uint8)


def compare(pixels_graph: Path, images_graph: Path, how: Preprocessing, count: int) -> Iterator[Agreement]:
    """The agreement of two graphs for each kind, with a quarter of the images each."""
    sessions = [
        ort.InferenceSession(graph, providers=["CPUExecutionProvider"]) for graph in (pixels_graph, images_graph)
    ]
    for number, kind in enumerate(_KINDS):
        pairs = []
        for start in range(0, count // len(_KINDS), _AT_ONCE):
            pixels = drawn(kind, min(_AT_ONCE, count // len(_KINDS) - start), 1000 * number + start)
            normalised = by_channel(pixels, how.mean, how.std, how.scale, bgr=how.channels == "BGR")
            pairs.append([_answers(sessions[0], pixels), _answers(sessions[1], normalised)])
        got, expected = (np.concatenate(answers).astype(np.float64) for answers in zip(*pairs, strict=True))
        error = np.abs(got - expected).max() / np.abs(expected).max()
        yield Agreement(len(got), float((got == expected).all(axis=1).mean()), float(error))


def _answers(session: ort.InferenceSession, batch: Pixels | Images) -> Images:
    answers: Images = session.run(None, {session.get_inputs()[0].name: batch})[0]
    return answers


def half_error(how: Preprocessing) -> float:
    """The largest error of a normalised pixel, over the largest, if each step were computed in FP16."""
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None, None], 3, axis=3)
    exact = by_channel(levels, how.mean, how.std, how.scale)[:, :, 0, 0]
    mean, std = np.array(how.mean, np.float16), np.array(how.std, np.float16)
    half = (levels[:, 0, 0].astype(np.float16) * np.float16(how.scale) - mean) / std
    return float(np.abs(half.astype(np.float64) - exact).max() / np.abs(exact).max())


def measure(count: int, *, reversed_colours: bool = False) -> bool:
    """Prints the agreement of each kind; whether all errors are within the tolerance. Colours can be made wrong."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            deploytool.export(_MODEL, io="uint8", layout="NHWC", quick=True, to="onnx", out=Path(folder) / "pixels"),
            deploytool.export(_MODEL, quick=True, to="onnx", out=Path(folder) / "images"),
        ]
        how = catalog.find(_MODEL).preprocessing
        noise = golden.read(runs[0].folder / Stage.GOLDEN / Kind.GOLDEN.value).noise
        allowed = metrics.tolerances(noise, {}).fp32.max_error
        wrong = replace(how, channels="BGR") if reversed_colours else how
        pixels_graph, images_graph = (run.folder / Stage.REWRITE / Kind.GRAPH.value for run in runs)
        found = list(compare(pixels_graph, images_graph, wrong, count))
    for kind, agreement in zip(_KINDS, found, strict=True):
        equal, error = f"{agreement.equal:.2%} with equal bits", f"largest error {agreement.error:.1e}"
        print(f"{kind:12} {agreement.images} images, {equal}, {error}")
    print(f"tolerance {allowed:.1e} (noise in FP32 {noise.fp32.max_error:.1e})")
    print(f"normalised pixels in FP16 arithmetic: largest error {half_error(how):.1e} of the largest value")
    return all(agreement.error <= allowed for agreement in found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--reversed-colours", action="store_true", help="Expect BGR, which is wrong: exits with 1.")
    given = parser.parse_args()
    return int(not measure(given.images, reversed_colours=given.reversed_colours))


if __name__ == "__main__":
    sys.exit(main())
