"""The child process that opens the models of a bundle; it reads a request and writes its answer to a file."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL.Image import Image

from deploytool import serde
from deploytool.backends import tensorrt, tensorrt_builder, tensorrt_config
from deploytool.backends.session import Array
from deploytool.benchmark import ratio
from deploytool.benchmark.ratio import Ratio
from deploytool.builder_settings import UNSET, BuilderSettings
from deploytool.bundle.manifest import Manifest, read_verified
from deploytool.data import drawing, images, placement
from deploytool.data.golden import Arrays, Golden
from deploytool.data.images import Pixels
from deploytool.device import answers, corners, drawings, external_weights, findings
from deploytool.device import inputs as device_inputs
from deploytool.device.bounds import bounded
from deploytool.device.candidates import Candidate
from deploytool.device.corners import CornerResult
from deploytool.device.findings import Findings
from deploytool.device.session import open_candidate
from deploytool.errors import DeployError, StageFailed
from deploytool.host import disk, energy, files, memory, scratch
from deploytool.parity.replay import replay
from deploytool.results.report import Check
from deploytool.spec import ADDED, BATCH, EnginePlan, Range, Task

_INPUT_TOLERANCE = 1e-5  # of the largest input: decoders and numpy versions may round differently, by no more than this


@dataclass(frozen=True)
class Request:
    """The task (`try`, `race`, `answer` or `build`), its inputs, and the file for the answer.

    `try` replays the golden cases, times one batch for `seconds`, and with `corners` compares every corner; `race`
    times one batch on the candidate and on `rival` in turn, `seconds` in all; `answer` runs the model on every item,
    and draws what it finds into the folder `out` if there is one; `build` writes an engine to `out`, with `settings`
    and what the file `timing_cache` holds of an earlier build, its own cache beside it, and its progress to stdout.
    `pictures` are the paths of one item after the other, with an image for each input. `top` is the number of classes
    to name, `min_score` the lowest score of a box.
    """

    task: str
    folder: str
    manifest: Manifest
    candidate: Candidate
    answer: str
    seconds: float = 0.0
    pictures: tuple[str, ...] = ()
    top: int = 5
    min_score: float = 0.0
    out: str = ""
    capabilities: tuple[str, ...] = ()
    rival: Candidate | None = None
    settings: BuilderSettings = UNSET
    timing_cache: str = ""
    corners: bool = False


@dataclass(frozen=True)
class Trial:
    """The result of the golden cases; latencies are of one batch, median and 90th percentile in milliseconds.

    `power_w` is the mean power of what `power_source` names while batches were timed one after the other, None where
    the machine does not tell it or was timed for less than a second. `corners` has the result of each corner of the
    bundle; it is empty if they were not asked for, or the golden cases are wrong.
    """

    check: Check
    latency_ms: float
    p90_ms: float
    rounds: int
    batch: int
    power_w: float | None = field(default=None, metadata=ADDED)
    power_source: str = field(default="", metadata=ADDED)
    corners: tuple[CornerResult, ...] = field(default=(), metadata=ADDED)

    @property
    def energy_mj(self) -> float | None:
        """The millijoules of one batch; None where the power is unknown."""
        return None if self.power_w is None else self.power_w * self.latency_ms


@dataclass(frozen=True)
class Answer:
    """The answer to a request; `problem`, `remedy` and `kind` (the class of the error) if it failed.

    `speedup` is that of the rival over the candidate.
    """

    problem: str = ""
    remedy: str = ""
    kind: str = ""
    trial: Trial | None = None
    speedup: Ratio | None = None
    findings: Findings = field(default_factory=Findings)
    layers: tuple[tuple[str, int], ...] = ()


def main(path: str) -> None:
    """Carries out the request in a file, and writes the answer to the file that it names."""
    request = serde.decode(Request, json.loads(Path(path).read_text(encoding="utf-8")))
    try:
        answer = {"try": _try, "race": _race, "answer": _answer, "build": _build}[request.task](request)
    except DeployError as error:
        answer = Answer(str(error), error.remedy, type(error).__name__)
    Path(request.answer).write_text(serde.text(answer), encoding="utf-8")


def _try(request: Request) -> Answer:
    manifest, folder, candidate = request.manifest, Path(request.folder), request.candidate
    sample, batch = answers.read_golden(folder, manifest), manifest.free[BATCH]
    _check_preprocessing(request, sample)
    memory_mib = corners.memory_mib(manifest, candidate) if request.corners else 0
    with bounded(candidate, memory_mib), open_candidate(candidate) as session:
        outputs = replay(session, sample.inputs, batch)
        check = answers.check(outputs, sample, folder, manifest, candidate)
        inputs = _smallest_batch(sample, batch)
        meter = energy.start(candidate.device)
        times_ms = ratio.time_by_wall_clock({"one": partial(session, **inputs)}, request.seconds)["one"]
        power = meter.stop()
        tried = request.corners and not check.broken
        at_corners = tuple(corners.compare(session, folder, manifest, candidate, sample)) if tried else ()
    median, p90 = float(np.median(times_ms)), float(np.percentile(times_ms, 90))
    watts, told_by = (power.watts, power.source) if power else (None, "")
    timed = (median, p90, len(times_ms), batch.smallest)
    return Answer(trial=Trial(check, *timed, power_w=watts, power_source=told_by, corners=at_corners))


def _race(request: Request) -> Answer:
    """The speed-up of the rival over the candidate; both passed the golden cases, each within its memory."""
    if request.rival is None:
        raise StageFailed("nothing is to be compared", "report this as a bug")
    sample = answers.read_golden(Path(request.folder), request.manifest)
    inputs = _smallest_batch(sample, request.manifest.free[BATCH])
    with open_candidate(request.candidate) as one, open_candidate(request.rival) as other:
        calls = {"one": partial(one, **inputs), "other": partial(other, **inputs)}
        times_ms = ratio.time_by_wall_clock(calls, request.seconds)
    return Answer(speedup=ratio.ratio(times_ms["one"], times_ms["other"]))


def _smallest_batch(sample: Golden, batch: Range) -> Arrays:
    """Golden inputs as one batch of the smallest size."""
    return {name: np.resize(array, (batch.smallest, *array.shape[1:])) for name, array in sample.inputs.items()}


def _check_preprocessing(request: Request, sample: Golden) -> None:
    """Raises StageFailed unless the images of the first case become its inputs here: decoder, channels, arithmetic."""
    manifest, folder = request.manifest, Path(request.folder)
    specs = manifest.preprocessing.images(manifest.inputs)
    paths = manifest.golden.by_input(specs[0].name) if specs else {}
    for spec in specs:
        if not paths.get(spec.name):
            continue
        path = paths[spec.name][0]
        pixels = images.decode(io.BytesIO(read_verified(folder, manifest, path)), folder / path)
        computed, expected = images.normalise(pixels[None], manifest.preprocessing, spec), sample.inputs[spec.name][:1]
        if computed.shape != expected.shape or _relative_error(computed, expected) > _INPUT_TOLERANCE:
            problem = f"preprocessing the golden image of {spec.name} gives another tensor here than on the host"
            raise StageFailed(problem, "update pillow and numpy")


def _relative_error(computed: Array, expected: Array) -> float:
    """The largest difference over the largest magnitude, also of integers."""
    difference = np.abs(computed.astype(np.float64) - expected.astype(np.float64)).max()
    return float(difference / (np.abs(expected.astype(np.float64)).max() or 1.0))


def _answer(request: Request) -> Answer:
    manifest = request.manifest
    found: list[Findings] = []
    with bounded(request.candidate), open_candidate(request.candidate) as session:
        for paths in _items(request):
            with memory.unlimited():  # the images are the caller's, and the limit is for the bundle
                pixels = {name: images.read(Path(path)) for name, path in paths.items()}
                inputs = device_inputs.from_pixels(pixels, manifest, paths)
            outputs = replay(session, inputs, manifest.free.get(BATCH, Range()))
            with memory.unlimited():
                found.append(_found(paths, next(iter(pixels.values())), outputs, request))
    return Answer(findings=findings.merged(found))


def _items(request: Request) -> Iterator[Mapping[str, str]]:
    """The path of the image of each input by name, for one item after the other."""
    names = [each.tensor.name for each in device_inputs.find(request.manifest)]
    for start in range(0, len(request.pictures), len(names)):
        yield dict(zip(names, request.pictures[start : start + len(names)], strict=True))


def _found(paths: Mapping[str, str], pixels: Pixels, outputs: Arrays, request: Request) -> Findings:
    """What the outputs say about one item, drawn into its first picture if the request has a folder for drawings."""
    path, manifest, task = _title(paths), request.manifest, request.manifest.task
    placed = placement.place((pixels.shape[0], pixels.shape[1]), manifest.preprocessing)
    if task is Task.DETECT:
        objects = findings.objects(path, outputs, manifest, placed, request.min_score)
        drawn = _draw(lambda: drawing.boxes(pixels, objects.boxes), paths, request)
        return Findings(objects=(replace(objects, drawing=drawn),))
    if task is Task.SEGMENT:
        areas, classes = findings.areas(path, outputs, manifest, placed)
        drawn = _draw(lambda: drawing.overlay(pixels, classes), paths, request)
        return Findings(areas=(replace(areas, drawing=drawn),))
    if task is Task.TOKENS:
        return Findings(sequences=(findings.sequence(path, outputs, manifest),))
    if task is Task.EMBED:
        return Findings(embeddings=tuple(findings.embedding(path, name, array[0]) for name, array in outputs.items()))
    guesses = (findings.guess(path, name, array[0], request.top, manifest.classes) for name, array in outputs.items())
    return Findings(guesses=tuple(guesses))


def _title(paths: Mapping[str, str]) -> str:
    """How an item is called in what is found: by its path, or by those of all inputs with their names."""
    (first, *others) = paths.values()
    return " ".join(f"{name}={path}" for name, path in paths.items()) if others else first


def _draw(draw: Callable[[], Image], paths: Mapping[str, str], request: Request) -> str:
    """The path of the drawing; empty if the request has no folder for drawings."""
    return drawings.save(draw(), Path(request.out), tuple(paths.values())) if request.out else ""


def _build(request: Request) -> Answer:
    candidate, manifest = request.candidate, request.manifest
    library = tensorrt.library(candidate.flavour)
    graph = files.read_verified(Path(candidate.path), candidate.size, candidate.sha256)
    plan = EnginePlan(Path(request.out).name, candidate.flavour, request.capabilities)
    with scratch.folder() as folder:  # TensorRT reads side files by itself: from a copy that was verified
        has_side_files = bool(external_weights.find(graph, candidate.path))
        result = tensorrt_builder.build(
            *(library, external_weights.copy(candidate, graph, folder) if has_side_files else graph, plan),
            *(manifest.inputs, manifest.free, _print_progress),
            fp32_layers=None,  # how much of the graph is FP32 was checked where it was packed
            settings=request.settings,
            timing_cache=tensorrt_config.read_timing_cache(Path(request.timing_cache)),
        )
    disk.write(Path(request.out), result.engine)
    if result.timing_cache:
        disk.write(Path(request.out).with_suffix(tensorrt_config.CACHE_SUFFIX), result.timing_cache)
    return Answer(layers=tuple(sorted(result.layers.items())))


def _print_progress(done: int, total: int) -> None:
    """Writes one line to stdout, which the parent process reads."""
    os.write(1, f"{done}/{total}\n".encode())
