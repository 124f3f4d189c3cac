"""Measures which faults of detectors and segmenters the checks of a run detect, and how often correct files fail.

    python -m tests.tasks.faults --detector FILE --segmenter FILE [--pairs 500]

Faults of all kinds of edits.py are planted in the FP32 and FP16 graphs of runs. The size of a fault is how far it moves
the answers, in tolerances, by the measure of effect.py. Correct pairs differ by rounding alone: other orders of sums,
batch sizes and numbers of threads, in FP32 and in FP16.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

import deploytool
from deploytool.backends import fp16_emulation
from deploytool.data import golden
from deploytool.data.golden import Golden
from deploytool.parity import metrics
from deploytool.spec import Decoding, Precision, Tensor
from deploytool.tasks import layouts
from tests.tasks import effect, measures, rounding, scenes
from tests.tasks.edits import FAULTS

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

FOLDER = Path(__file__).parent
MODELS = {"heads": "detector", "detector": "detector", "segmenter": "segmenter"}  # by factory, the file of it
SCENES = 48
CASES = 12  # of a run or a correct pair
BANDS = {"> 4×": (4.0, np.inf), "2–4×": (2.0, 4.0), "1–2×": (1.0, 2.0), "< 1×": (-1.0, 1.0)}
NMS, THRESHOLD, TOP = 0.5, 0.05, 30  # of the boxes of `heads`
DECODING = Decoding(threshold=THRESHOLD, nms=NMS, top=TOP)
OVERLAP = 0.02  # the tolerance of an overlap in FP16
NMS_CHANGES = (-0.4, -0.3, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.3, 0.4)


@dataclass(frozen=True)
class Subject:
    """A model that was exported: its FP32 and FP16 graphs, and its golden data."""

    name: str
    fp32: onnx.ModelProto
    fp16: onnx.ModelProto
    sample: Golden

    def graph(self, *, half: bool) -> onnx.ModelProto:
        """A copy of one of the graphs."""
        copied = onnx.ModelProto()
        copied.CopyFrom(self.fp16 if half else self.fp32)
        return copied


@dataclass(frozen=True)
class Result:
    """One fault: its size in tolerances, and whether the check detects it."""

    model: str
    kind: str
    strength: float
    half: bool
    size: float
    detected: bool


@dataclass(frozen=True)
class Pair:
    """One correct pair: the distance of its answers in tolerances, whether boxes change places, and the verdict."""

    model: str
    half: bool
    variant: str
    size: float
    reordered: bool
    failed: tuple[str, ...]


def export(name: str, weights: Path, pictures: Path, exporter: str, out: Path) -> Subject:
    """Exports a model with test scenes as golden images."""
    run = deploytool.export(
        f"{FOLDER / MODELS[name]}.py:{name}",
        inputs=(Tensor("image", ("batch", 3, 128, 160)),),
        weights=weights,
        data=pictures,
        images=SCENES,
        mean=0.0,
        std=1.0,
        fit="letterbox",
        task="segment" if name == "segmenter" else "detect",
        exporter=exporter,
        quick=True,
        out=out,
    )
    fp32, fp16 = (onnx.load(run.folder / stage / "model.onnx") for stage in ("simplify", "fp16"))
    return Subject(name, fp32, fp16, golden.read(run.folder / "golden" / "golden.npz"))


def answers(graph: onnx.ModelProto, inputs: Arrays, *, half: bool, batch: int, threads: int = 1) -> dict[str, Array]:
    """The outputs of a graph; one in FP16 is run in FP32 with every result rounded to FP16."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if half:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    loaded = fp16_emulation.emulate(graph) if half else graph
    session = onnxruntime.InferenceSession(loaded.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    count = len(next(iter(inputs.values())))
    batches = [
        session.run(names, {name: array[start : start + batch] for name, array in inputs.items()})
        for start in range(0, count, batch)
    ]
    return {name: np.concatenate(parts) for name, parts in zip(names, zip(*batches, strict=True), strict=True)}


def broken(got: Arrays, sample: Golden, *, half: bool, decoding: Decoding | None = None) -> tuple[str, ...]:
    """The figures that the check of a run finds beyond tolerance; empty if the answers pass.

    `decoding` is how the outputs of `heads` became the boxes of `got`, after the graph.
    """
    limits = metrics.tolerances(sample.noise, {})
    limit = limits.fp16 if half else limits.fp32
    if decoding is not None:
        limit = replace(limit, rows=layouts.selected_rows(sample.outputs, decoding))
    return metrics.check(
        got, sample.outputs, "source", limit, sample.ties(Precision.FP16 if half else Precision.FP32)
    ).broken


def units(sample: Golden, *, half: bool) -> dict[str, float]:
    """The smallest tolerance of each output."""
    limits = metrics.tolerances(sample.noise, {})
    limit = limits.fp16 if half else limits.fp32
    found = dict.fromkeys(sample.outputs, limit.max_error)
    for part in limit.parts:
        found[part.part.output] = min(found[part.part.output], part.tolerance.max_error)
    return found


def some_cases(sample: Golden, chosen: Array) -> Golden:
    """The golden data of some of the cases."""

    def taken(arrays: Arrays, axis: int = 0) -> dict[str, Array]:
        return {name: array.take(chosen, axis) for name, array in arrays.items()}

    return replace(
        sample,
        pixels=sample.pixels[chosen],
        labels=sample.labels[chosen],
        inputs=taken(sample.inputs),
        outputs=taken(sample.outputs),
        reference=taken(sample.reference),
        ties32=taken(sample.ties32, 1),
        ties16=taken(sample.ties16, 1),
    )


def try_faults(subject: Subject) -> Iterator[Result]:
    """Plants all faults in both graphs of a model; each is judged on the first golden cases."""
    sample = some_cases(subject.sample, np.arange(CASES))
    sound = answers(subject.graph(half=False), sample.inputs, half=False, batch=CASES)
    for kind, fault in FAULTS.items():
        for strength in fault.strengths if subject.name in fault.models else ():
            for half in (False, True):
                graphs = [subject.graph(half=half), subject.graph(half=False)]
                for graph in graphs:
                    fault.plant(graph, strength)
                got = answers(graphs[0], sample.inputs, half=half, batch=CASES)
                moved = got if not half else answers(graphs[1], sample.inputs, half=False, batch=CASES)
                size = effect.distance(moved, sound, units(sample, half=half))
                detected = bool(broken(got, sample, half=half))
                yield Result(subject.name, kind, strength, half, size, detected)


def try_suppression(subject: Subject) -> Iterator[Result]:
    """Other limits of non-maximum suppression after the graph of `heads`, in place of NMS."""
    sample = some_cases(subject.sample, np.arange(CASES))
    sample = after_suppression(sample)
    for half in (False, True):
        raw = answers(subject.graph(half=half), sample.inputs, half=half, batch=CASES)
        for change in NMS_CHANGES:
            got = measures.selected(raw, NMS + change, THRESHOLD, TOP)
            size = effect.distance(got, sample.outputs, units(sample, half=half))
            if half:
                size = min(size, _needed_change(raw, change) / OVERLAP)
            detected = bool(broken(got, sample, half=half, decoding=DECODING))
            yield Result(subject.name, "NMS threshold", change, half, size, detected)


def _needed_change(raw: Arrays, change: float) -> float:
    """How far the limit of the suppression has to move for the same boxes as with the whole change."""
    wanted = measures.selected(raw, NMS + change, THRESHOLD, TOP)
    for share in np.linspace(0, 1, 51):
        got = measures.selected(raw, NMS + share * change, THRESHOLD, TOP)
        if all(np.array_equal(got[name], wanted[name]) for name in wanted):
            break
    return float(share) * abs(change)


def after_suppression(sample: Golden) -> Golden:
    """The golden data of `heads` with the boxes that are left."""
    outputs = measures.selected(sample.outputs, NMS, THRESHOLD, TOP)
    return replace(sample, outputs=outputs, ties32={}, ties16={})


def correct_pairs(subject: Subject, count: int) -> Iterator[Pair]:
    """Correct files whose answers differ from those of the source by rounding, alternately in FP32 and FP16."""
    for number in range(count):
        rng, half = np.random.default_rng((number, 1)), bool(number % 2)
        sample = some_cases(subject.sample, rng.choice(SCENES, CASES, replace=False))
        graph = subject.graph(half=half)
        rounding.permute_sums(graph, rng)
        batch, threads = int(rng.choice((1, 3, 4, CASES))), int(rng.choice((1, 2)))
        got = answers(graph, sample.inputs, half=half, batch=batch, threads=threads)
        variant = f"batch {batch}, {threads} threads, pair {number}"
        yield _pair(subject.name, variant, got, sample, half=half)
        if subject.name == "heads":
            left = measures.selected(got, NMS, THRESHOLD, TOP)
            yield _pair("heads and NMS", variant, left, after_suppression(sample), half=half, decoding=DECODING)


def _pair(
    model: str, variant: str, got: Arrays, sample: Golden, *, half: bool, decoding: Decoding | None = None
) -> Pair:
    reordered = "labels" in got and effect.order_changes(got, sample.outputs)
    size = effect.distance(got, sample.outputs, units(sample, half=half))
    failed = broken(got, sample, half=half, decoding=decoding)
    return Pair(model, half, variant, size, reordered, failed)


def fault_table(results: Sequence[Result]) -> list[str]:
    """The detected faults of each kind, by their size in tolerances."""
    rows: dict[str, Counter[tuple[str, bool]]] = {}
    for result in results:
        band = next(name for name, (low, high) in BANDS.items() if low < result.size <= high)
        for name in (result.kind, "all"):
            rows.setdefault(name, Counter())[band, result.detected] += 1
    rows["all"] = rows.pop("all")
    lines = [_line(["fault", *BANDS]), "|---" * (1 + len(BANDS)) + "|"]
    for name, row in rows.items():
        totals = {band: row[band, True] + row[band, False] for band in BANDS}
        cells = [f"{row[band, True]} of {total}" if total else "–" for band, total in totals.items()]
        lines.append(_line([name, *cells]))
    return lines


def pair_table(pairs: Sequence[Pair]) -> list[str]:
    """The false alarms of each model and precision."""
    lines = [_line(["correct pairs", "pairs", "reordered", "false alarms", "largest distance"]), "|---" * 5 + "|"]
    for name, half in dict.fromkeys((pair.model, pair.half) for pair in pairs):
        of_row = [pair for pair in pairs if (pair.model, pair.half) == (name, half)]
        reordered, failed = sum(pair.reordered for pair in of_row), sum(bool(pair.failed) for pair in of_row)
        largest = f"{max(pair.size for pair in of_row):.2f}"
        title = f"{name}, {'FP16' if half else 'FP32'}"
        lines.append(_line([title, str(len(of_row)), str(reordered), str(failed), largest]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints every missed fault of more than twice the tolerance, every false alarm, and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path, default=FOLDER / "detector.safetensors", help="checkpoint")
    parser.add_argument("--segmenter", type=Path, default=FOLDER / "segmenter.safetensors", help="checkpoint")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--exporters", nargs="+", default=["torchscript"])
    parser.add_argument("--pairs", type=int, default=500, help="correct pairs of all models together")
    arguments = parser.parse_args()
    results: list[Result] = []
    pairs: list[Pair] = []
    each = -(-arguments.pairs // (len(arguments.models) * len(arguments.exporters)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes.write_detection(folder / "detection", SCENES)
        scenes.write_segmentation(folder / "segmentation", SCENES)
        for model in arguments.models:
            task = "segmentation" if model == "segmenter" else "detection"
            for exporter in arguments.exporters:
                weights = getattr(arguments, MODELS[model])
                subject = export(model, weights, folder / task / "images", exporter, folder / f"{model}-{exporter}")
                results += try_faults(subject)
                results += try_suppression(subject) if model == "heads" else ()
                pairs += correct_pairs(subject, each)
    for result in results:
        if result.size > 2 and not result.detected:
            print("missed:", result)
    for pair in pairs:
        if pair.failed:
            print("false alarm:", pair)
    print(*fault_table(results), "", *pair_table(pairs), sep="\n")


if __name__ == "__main__":
    main()
