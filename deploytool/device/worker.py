"""The child process in which everything a bundle brings is opened for the first time: it answers in one file."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from deploytool import serde
from deploytool.backends import tensorrt, tensorrt_builder
from deploytool.backends.session import Array
from deploytool.benchmark import ratio
from deploytool.bundle.manifest import Manifest, read_verified
from deploytool.data import golden, images
from deploytool.data.golden import Arrays, Golden
from deploytool.device import external_weights
from deploytool.device import inputs as device_inputs
from deploytool.device.bounds import bounded
from deploytool.device.candidates import Candidate
from deploytool.device.session import open_candidate
from deploytool.errors import BadInput, DeployError, StageFailed
from deploytool.host import disk, files
from deploytool.parity import metrics
from deploytool.parity.replay import replay
from deploytool.results.report import Check
from deploytool.spec import BATCH, EnginePlan, Precision, Range

_CLOSE = 1e-5  # of the largest input: two decoders or two numpys may round otherwise, and no more than that


@dataclass(frozen=True)
class Request:
    """What to do (`task`: try, answer or build), with what, and where to write the answer.

    A trial replays the golden cases and times one batch for `seconds`; an answer is given for every picture; a build
    writes its engine to `out` and says how far it is on stdout.
    """

    task: str
    folder: str
    manifest: Manifest
    way: Candidate
    answer: str
    seconds: float = 0.0
    pictures: tuple[str, ...] = ()
    top: int = 5
    out: str = ""
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """What running the golden cases showed; latencies are of one batch, median and ninth decile in milliseconds."""

    check: Check
    latency_ms: float
    p90_ms: float
    rounds: int
    batch: int


@dataclass(frozen=True)
class Guess:
    """What one output says of one picture: its best classes with their scores; of no classes, its shape and range.

    `names` are those of the classes, none where nobody knows them.
    """

    picture: str
    output: str
    shape: tuple[int, ...]
    classes: tuple[int, ...]
    names: tuple[str, ...]
    scores: tuple[float, ...]
    smallest: float
    largest: float


@dataclass(frozen=True)
class Answer:
    """What came of it; `problem`, `remedy` and the kind of error if it was refused."""

    problem: str = ""
    remedy: str = ""
    kind: str = ""
    trial: Trial | None = None
    guesses: tuple[Guess, ...] = ()
    layers: tuple[tuple[str, int], ...] = ()


def main(path: str) -> None:
    """Does what the request in a file asks for, and writes the answer where it says."""
    request = serde.decode(Request, json.loads(Path(path).read_text(encoding="utf-8")))
    try:
        answer = {"try": _try, "answer": _answer, "build": _build}[request.task](request)
    except DeployError as error:
        answer = Answer(str(error), error.remedy, type(error).__name__)
    Path(request.answer).write_text(serde.text(answer), encoding="utf-8")


def _try(request: Request) -> Answer:
    manifest = request.manifest
    sample, batch = _sample(request), manifest.free[BATCH]
    _same_input(request, sample)
    with bounded(request.way), open_candidate(request.way) as session:
        got = replay(session, sample.inputs, batch)
        check = _check(got, sample, request)
        one = {name: np.resize(array, (batch.smallest, *array.shape[1:])) for name, array in sample.inputs.items()}
        taken = ratio.time_by_wall_clock({"one": partial(session, **one)}, request.seconds)["one"]
    median, slow = float(np.median(taken)), float(np.percentile(taken, 90))
    return Answer(trial=Trial(check, median, slow, len(taken), batch.smallest))


def _sample(request: Request) -> Golden:
    """The golden cases, read from the very bytes that were hashed."""
    folder, named = Path(request.folder), request.manifest.golden.path
    return golden.parse(io.BytesIO(read_verified(folder, request.manifest, named)), folder / named)


def _same_input(request: Request, sample: Golden) -> None:
    """Whether a picture becomes the same tensor here as on the desk: decoder, channels and arithmetic."""
    how = request.manifest.preprocessing
    image = next(iter(how.images(request.manifest.inputs)), None)
    if image is None or not request.manifest.golden.images:
        return
    folder, named = Path(request.folder), request.manifest.golden.images[0]
    pixels = images.decode(io.BytesIO(read_verified(folder, request.manifest, named)), folder / named)
    made, wanted = images.normalise(pixels[None], how, image), sample.inputs[image.name][:1]
    if made.shape != wanted.shape or _distance(made, wanted) > _CLOSE:
        raise StageFailed("the golden picture becomes another tensor here than on the desk", "update pillow and numpy")


def _distance(made: Array, wanted: Array) -> float:
    """The largest difference over the largest number, of bytes too."""
    difference = np.abs(made.astype(np.float64) - wanted.astype(np.float64)).max()
    return float(difference / (np.abs(wanted.astype(np.float64)).max() or 1.0))


def _check(got: Arrays, sample: Golden, request: Request) -> Check:
    precision = request.way.precision
    try:
        tolerance, ties = request.manifest.tolerances[precision], sample.ties(half=precision is Precision.FP16)
        return metrics.check(got, sample.reference, "FP64", tolerance, ties)
    except (ValueError, KeyError) as error:
        raise StageFailed(f"the outputs are not those of the golden cases: {error}", "pack the bundle again") from error


def _answer(request: Request) -> Answer:
    manifest = request.manifest
    guesses: list[Guess] = []
    with bounded(request.way), open_candidate(request.way) as session:
        for path in request.pictures:
            inputs = {manifest.inputs[0].name: device_inputs.tensor(path, manifest)}
            made = replay(session, inputs, manifest.free.get(BATCH, Range()))
            guesses += [_guess(path, name, array[0], request) for name, array in made.items()]
    return Answer(guesses=tuple(guesses))


def _guess(path: str, name: str, array: Array, request: Request) -> Guess:
    if not np.isfinite(array).all():
        raise BadInput(f"{path}: {name} is not finite", "is this a picture the model was made for?")
    numbers, called = array.astype(np.float64), request.manifest.classes
    best = np.argsort(-numbers, kind="stable")[: request.top] if array.ndim == 1 else np.zeros(0, int)
    scores = tuple(float(score) for score in array[best]) if len(best) else ()
    classes = tuple(int(place) for place in best)
    names = tuple(called[place] for place in classes) if len(called) == len(numbers.ravel()) else ()
    return Guess(path, name, array.shape, classes, names, scores, float(array.min()), float(array.max()))


def _build(request: Request) -> Answer:
    way, manifest = request.way, request.manifest
    trt, graph = tensorrt.library(way.flavour), files.read_verified(Path(way.path), way.size, way.sha256)
    external_weights.refuse(graph, way.path)
    plan = EnginePlan(Path(request.out).name, way.flavour, request.capabilities)
    made = tensorrt_builder.build(trt, graph, plan, manifest.inputs, manifest.free, _tell)
    disk.write(Path(request.out), made.engine)
    return Answer(layers=tuple(sorted(made.layers.items())))


def _tell(done: int, total: int) -> None:
    """One line on stdout, which only the parent reads."""
    os.write(1, f"{done}/{total}\n".encode())
