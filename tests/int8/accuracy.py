"""Measures what INT8 costs trained models, beside other quantisers: `make int8`.

Four models are exported with `--precision int8`: two classifiers that `deploytool train` trains here, and the detector
and the segmenter of `tests.tasks`. Their INT8 graphs, and those that `onnxruntime.quantization` and nncf make with
their defaults from the exported graph and the same calibration pictures, are judged by one metric on the same pictures.
`--out` is the folder of everything that is made and kept for a second run, `--page` the file for the tables.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deploytool.backends import eager, int8_emulation, onnxruntime, openvino
from deploytool.backends.session import Session
from deploytool.data import batches, calibration
from deploytool.data.golden import Arrays
from deploytool.data.labels import read as labels
from deploytool.errors import MissingBackend
from deploytool.host import machine
from deploytool.loading import source_model
from deploytool.metrics import evaluator
from deploytool.metrics.evaluator import Answers
from deploytool.parity.replay import SMALL_BATCHES, replay
from deploytool.precision.int8 import calibrated_graphs, selection
from deploytool.results import measure_lines
from deploytool.results.artifact import ENGINE_GRAPH, openvino_graph
from deploytool.results.int8_forms import Form, cpu_form
from deploytool.results.measure import Difference, Measure
from deploytool.rewrites.graph import storage
from tests.int8 import pictures, quantizers
from tests.tasks import scenes

Start = Callable[[], AbstractContextManager[Session]]

MARGIN = 0.01
OURS, ORT, NNCF = "deploytool", "onnxruntime.quantization", "nncf"
AS_QUANTISED, IN_ORT, IN_OPENVINO = "as quantised", "ONNX Runtime", "OpenVINO"
FOR_OPENVINO = "as quantised, for OpenVINO"
_SAME = {  # our graph that a peer's is compared with, by who made that and how it is run
    (ORT, AS_QUANTISED): AS_QUANTISED,
    (ORT, IN_ORT): IN_ORT,
    (NNCF, AS_QUANTISED): FOR_OPENVINO,
    (NNCF, IN_OPENVINO): IN_OPENVINO,
}
_JUDGED = {0, 3, 6}  # exit codes of an export that came to a verdict
_COMPARED = 32  # calibration cases on which the stage compares ways to calibrate
_TASKS = Path(__file__).parents[1] / "tasks"
_SCENES = ("--input", "3x128x160", "--mean", "0", "--std", "1", "--fit", "letterbox")


@dataclass(frozen=True)
class Trained:
    """A model with its pictures: the words of its training, if any, and of its export, labels and metric."""

    name: str
    write: Callable[[Path], None]
    model: tuple[str, ...]
    metric: str
    training: tuple[str, ...] = ()
    weights: Path | None = None
    labels: str | None = None


MODELS = (
    Trained(
        "digits",
        pictures.write_digits,
        ("mobilenet_v1_cifar", "--arg", "width=0.25"),
        "top1",
        training=("--no-flip", "--epochs", "30"),
    ),
    Trained(
        "crops",
        pictures.write_crops,
        ("mobilenet_v1_cifar", "--arg", "width=0.25"),
        "top1",
        training=("--epochs", "20", "--step", "8"),
    ),
    Trained(
        "detector",
        partial(pictures.write_scenes, content=scenes.DETECTED),
        (f"{_TASKS / 'detector.py'}:detector", *_SCENES, "--task", "detect"),
        "map",
        weights=_TASKS / "detector.safetensors",
        labels="annotations.json",
    ),
    Trained(
        "segmenter",
        partial(pictures.write_scenes, content=scenes.SEGMENTED),
        (f"{_TASKS / 'segmenter.py'}:segmenter", *_SCENES, "--task", "segment"),
        "miou",
        weights=_TASKS / "segmenter.safetensors",
        labels="masks",
    ),
)


@dataclass(frozen=True)
class Graph:
    """An INT8 graph in one way to run it: who made it, in which of our forms, and how it is started."""

    quantizer: str
    form: Form | None
    run_by: str
    start: Start


@dataclass(frozen=True)
class Row:
    """A graph with its measure against the source, and for a peer what ours is above it."""

    graph: Graph
    measure: Measure
    above: Difference | None


def prepare(trained: Trained, folder: Path) -> Path:
    """The run of a model's export, with the pictures and the weights that it takes."""
    sets, unfinished = folder / "sets", folder / "unfinished"
    if not sets.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        trained.write(unfinished)
        unfinished.rename(sets)
    weights = trained.weights or folder / "trained" / "weights.safetensors"
    if trained.training:
        _deploytool("train", *trained.model, "--data", sets, *trained.training, "--out", weights.parent)
    run = folder / "run"
    judged = ["--metric", trained.metric, "--max-drop", "1pt", *_labels(trained, sets)]
    made: list[str | Path] = ["--precision", "int8", "--calibration", sets / "calibration", "--quick", "--out", run]
    _deploytool("export", *trained.model, "--weights", weights, "--data", _tests(trained, sets), *judged, *made)
    return run


def _tests(trained: Trained, sets: Path) -> Path:
    return sets / "test" / "images" if trained.labels else sets / "test"


def _labels(trained: Trained, sets: Path) -> list[str | Path]:
    return ["--labels", sets / "test" / trained.labels] if trained.labels else []


def _deploytool(*arguments: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", "deploytool", *map(str, arguments)], check=False)
    if done.returncode not in _JUDGED:
        raise SystemExit(f"deploytool {arguments[0]} ended with {done.returncode}")


class Judge:
    """The metric of a model on its test pictures, against its answers in FP32."""

    def __init__(self, trained: Trained, sets: Path, run: Path) -> None:
        self.source = source_model.read(run / "load" / "weights.safetensors")
        model, file = self.source.definition, trained.labels and sets / "test" / trained.labels
        labelled = labels.read(_tests(trained, sets), file or None, model.task, model.classes)
        self._items, self.images = labelled.items, len(labelled.items)
        self._evaluator = evaluator.choose(trained.metric, model, labelled)
        self.fp32 = self.answers(partial(eager.start, self.source.weights))

    def answers(self, start: Start) -> Answers:
        """The answers to all pictures."""
        record = self._evaluator.record()
        with start() as session:
            for batch in batches.read(self.source.definition, self._items, {}):
                record.add(replay(session, batch.inputs, SMALL_BATCHES), batch)
        return record.finish()

    def measure(self, got: Answers, expected: Answers) -> Measure:
        """The verdict on some answers against others."""
        return self._evaluator.measure(got, expected, MARGIN, 0)


def graphs(run: Path, cases: Sequence[Arrays], folder: Path) -> Iterator[Graph]:
    """The INT8 graphs of ours in the ways they are run, and then those of the peers that are installed."""
    ours, shipped = run / "int8" / "int8.onnx", cpu_form()
    for_openvino = openvino_graph(ours) or ours
    yield Graph(OURS, shipped, AS_QUANTISED, partial(int8_emulation.start, ours))
    yield Graph(OURS, shipped, IN_ORT, partial(onnxruntime.start, ours))
    yield Graph(OURS, shipped, FOR_OPENVINO, partial(int8_emulation.start, for_openvino))
    yield Graph(OURS, shipped, IN_OPENVINO, partial(openvino.start, for_openvino))
    if shipped is not Form.U8S8:
        bases = calibrated_graphs.read(run / "rewrite" / "model.onnx", run / "calibrate" / "ranges.npz")
        wide = folder / "u8s8.onnx"
        storage.save(selection.best(bases, Form.U8S8, frozenset(), cases[:_COMPARED]).graph, wide)
        yield Graph(OURS, Form.U8S8, AS_QUANTISED, partial(int8_emulation.start, wide))
    yield Graph(OURS, Form.TENSORRT, AS_QUANTISED, partial(int8_emulation.start, ours.with_name(ENGINE_GRAPH)))
    plain = run / "export" / "model.onnx"
    theirs = quantizers.onnxruntime_defaults(plain, cases, folder / "onnxruntime.onnx")
    yield Graph(ORT, None, AS_QUANTISED, partial(int8_emulation.start, theirs))
    yield Graph(ORT, None, IN_ORT, partial(quantizers.onnxruntime_session, theirs))
    try:
        model = quantizers.nncf_defaults(plain, cases, folder / "nncf.xml")
    except MissingBackend as error:
        print(error, file=sys.stderr)
        return
    yield Graph(NNCF, None, AS_QUANTISED, partial(quantizers.openvino_session, model, kernels=False))
    yield Graph(NNCF, None, IN_OPENVINO, partial(quantizers.openvino_session, model))


def compare(trained: Trained, folder: Path) -> tuple[int, list[Row]]:
    """The number of test pictures, and the rows of a model."""
    run, sets = prepare(trained, folder), folder / "sets"
    judge = Judge(trained, sets, run)
    rows, ours = list[Row](), dict[str, Answers]()
    for graph in graphs(run, _cases(sets / "calibration", judge), folder):
        got, above = judge.answers(graph.start), None
        if same := _SAME.get((graph.quantizer, graph.run_by)):
            above = judge.measure(ours[same], got).difference
        elif graph.form is not Form.TENSORRT:
            ours[graph.run_by] = got
        rows.append(Row(graph, judge.measure(got, judge.fp32), above))
    return judge.images, rows


def _cases(folder: Path, judge: Judge) -> list[Arrays]:
    data = calibration.read(folder, judge.source.definition, {})
    counted = ((batch, index) for batch in data for index in range(len(next(iter(batch.values())))))
    return [{name: array[index : index + 1] for name, array in batch.items()} for batch, index in counted]


def header() -> list[str]:
    """The title, the conditions and the columns."""
    libraries = ("torch", "onnxruntime", "openvino")
    versions = ", ".join(f"{name} {machine.version(name)}" for name in libraries)
    saturates = "sums of INT8 saturate here (no VNNI)" if machine.saturates_int8() else "with VNNI"
    columns = (
        "model",
        "metric, images",
        "FP32",
        "quantised by",
        "run",
        "INT8",
        "loss in points",
        "verdict",
        "ours above",
    )
    return [
        "# Accuracy of INT8",
        "",
        f"{machine.cpu()}, {saturates}; Python {platform.python_version()}, {versions},",
        f"nncf {quantizers.nncf_version()}; {time.strftime('%Y-%m-%d')}. {pictures.CALIBRATION} calibration pictures.",
        "Loss with its 95 % interval; the verdict is for a margin of 1 point. `ours above` is what ours has more than",
        "that row, in points: against `as quantised` ours as quantised, against kernels ours in the same runtime's.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]


def lines(trained: Trained, images: int, rows: Sequence[Row]) -> Iterator[str]:
    """The rows of the table of one model."""
    for row in rows:
        measure, form = row.measure, f", {row.graph.form}" if row.graph.form else ""
        loss = _points(measure.difference, -1)
        cells = [trained.name, f"{trained.metric}, {images}", f"{100 * measure.source:.2f}"]
        cells += [f"{row.graph.quantizer}{form}", row.graph.run_by, f"{100 * measure.artifact:.2f}", loss]
        cells += [measure_lines.verdict_text(measure), _points(row.above, 1) if row.above else "–"]
        yield f"| {' | '.join(cells)} |"


def _points(difference: Difference, sign: int) -> str:
    value, *ends = (100 * sign * each for each in (difference.value, difference.low, difference.high))
    low, high = sorted(ends)
    return f"{value:.2f} ({low:.2f} to {high:.2f})".replace("-0.00", "0.00")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=[each.name for each in MODELS], default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="file for the table, written after each model")
    options = parser.parse_args()
    found, began = header(), time.monotonic()
    for trained in MODELS:
        if options.models and trained.name not in options.models:
            continue
        folder = options.out.resolve() / trained.name
        folder.mkdir(parents=True, exist_ok=True)
        found += lines(trained, *compare(trained, folder))
        print("\n".join(found), f"{time.monotonic() - began:.0f} s", sep="\n", flush=True)
        if options.page:
            options.page.write_text("\n".join(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
