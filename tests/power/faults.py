"""Measures which faults the checks of a run detect: `make power`.

Faults of all families are planted in the FP16 graphs of runs. The size of a fault is the largest error that it causes
on 256 crops of photographs, in multiples of the tolerance. Whether it is detected is decided on the golden images of
the run alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from deploytool.backends import onnxruntime
from deploytool.data import images, synthetic
from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.faults import run
from deploytool.faults.kinds import families
from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph
from deploytool.parity.replay import replay
from deploytool.pipeline import runner
from deploytool.results.faults import ENGINE, GRAPH
from deploytool.spec import Job, Model, Options, Stage
from tests.foreign import truth
from tests.power import pictures
from tests.power.models import MODELS, small

CASES = 256
RECIPE = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.FP16)
BANDS = {"> 4×": (4.0, np.inf), "2–4×": (2.0, 4.0), "1–2×": (1.0, 2.0), "< 1×": (-1.0, 1.0)}
NAMES = {GRAPH: "graph check", ENGINE: "FP16 check"}


@dataclass(frozen=True)
class Result:
    """One fault in one check: its size in multiples of the tolerance, and whether the check detects it.

    A fault that is proved to change nothing has no check.
    """

    model: str
    family: str
    place: str
    check: str = ""
    size: float = 0.0
    detected: bool = False


def try_faults(model: Model, options: Options, home: Path, count: int) -> Iterator[Result]:
    """Plants up to `count` faults of every family in the FP16 graph of one run."""
    paths = {artifact.made_by: artifact.path for artifact in runner.run(Job(model, options), RECIPE, home)}
    weights, golden = paths[Stage.LOAD], paths[Stage.GOLDEN]
    subject = run.subject(weights, golden, paths[Stage.SIMPLIFY], paths[Stage.FP16], half=True, wanted={}, fresh=1)
    bench = run.prepare(subject)
    assert bench.sound, "the run without faults fails"
    inputs = _fresh_inputs(model)
    with onnxruntime.start(bench.graph.model.SerializeToString()) as session:
        expected = replay(session, inputs)
    for number, family in enumerate(families.FAMILIES):
        rng = np.random.default_rng((options.seed, number))
        for fault in islice(families.load(family).faults(bench.graph, rng), count):
            if fault.same is not None:
                yield Result(model.name, family, fault.place)
                continue
            effect = _effect(bench.graph, fault, inputs, expected)
            for check, trial in run.try_fault(bench, fault).items():
                size = effect / bench.checks[check].tolerance.max_error
                yield Result(model.name, family, fault.place, check, size, trial.caught)


def _fresh_inputs(model: Model) -> Arrays:
    """Inputs that are not part of any run: photographs if the model takes images, else synthetic inputs."""
    if model.preprocessing.images(model.inputs):
        pixels = pictures.crops(CASES, model.preprocessing)
        return {model.inputs[0].name: images.normalise(pixels, model.preprocessing)}
    _, inputs = synthetic.draw(model, CASES, 77_777, {})
    return inputs


def _effect(sound: FaultGraph, fault: Fault, inputs: Arrays, expected: Arrays) -> float:
    """The largest error that a fault causes, each part of the output at its own scale; infinite if the graph fails.

    The error is computed by code that is independent of the checks, so that both do not share a weakness.
    """
    faulty = sound.copy()
    fault.plant(faulty)
    try:
        with onnxruntime.start(faulty.model.SerializeToString()) as session:
            answers = replay(session, inputs)
        return truth.compare("", _halves(answers), _halves(expected), fp16=False, typical=1.0).error
    except (StageFailed, ValueError):
        return np.inf


def _halves(answers: Arrays) -> dict[str, list[truth.Array]]:
    """The answers in two halves, as `truth.compare` expects them."""
    half = CASES // 2
    parts = {"fresh": slice(0, half), "fresh again": slice(half, None)}
    return {name: [answer[part] for answer in answers.values()] for name, part in parts.items()}


def table(results: list[Result]) -> list[str]:
    """The table of docs/benchmarks.md: the detected faults of each family, by their size."""
    shown = [(check, band) for check in NAMES for band in list(BANDS)[:2]]
    rows: dict[str, Counter[object]] = defaultdict(Counter)
    for result in results:
        for row in (rows[result.family.replace("_", " ")], rows["all"]):
            row["planted"] += result.check in ("", GRAPH)
            row["same"] += not result.check
            band = next(name for name, (low, high) in BANDS.items() if low < result.size <= high)
            row[result.check, band] += 1
            row[result.check, band, "detected"] += result.detected
    rows["all"] = rows.pop("all")
    titles = ["fault", "planted", "no change, proved", *(f"{NAMES[check]}, {band}" for check, band in shown)]
    lines = [_line(titles), "|---" * len(titles) + "|"]
    for family, row in rows.items():
        cells = [f"{row[(*column, 'detected')]} of {row[column]}" if row[column] else "–" for column in shown]
        lines.append(_line([family, str(row["planted"]), str(row["same"] or "–"), *cells]))
    return lines


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def read(path: Path | None) -> dict[str, list[Result]]:
    """The results of an earlier, interrupted campaign, by run."""
    lines = path.read_text().splitlines() if path and path.is_file() else []
    runs = [run for line in lines if line.endswith("}") for run in json.loads(line).items()]
    return {name: [Result(**result) for result in results] for name, results in runs}


def main() -> None:
    """Prints every missed fault of more than twice the tolerance, and then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12, help="faults of each family in each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each model")
    parser.add_argument("--models", nargs="+", default=MODELS, help="models to use")
    parser.add_argument("--results", type=Path, help="file of the results; runs that it has are not repeated")
    arguments = parser.parse_args()
    done = read(arguments.results)
    runs = [(number, name, seed) for seed in range(arguments.seeds) for number, name in enumerate(arguments.models)]
    with tempfile.TemporaryDirectory() as folder:
        for number, name, seed in runs:
            options = Options(seed=100 + seed, exporter=("torchscript", "dynamo")[(number + seed) % 2])
            run_name = f"{name}, seed {seed}, {options.exporter}"
            if run_name in done:
                continue
            done[run_name] = list(try_faults(small(name, seed), options, Path(folder) / run_name, arguments.count))
            missed = [result for result in done[run_name] if result.size > 2 and not result.detected]
            print(f"{run_name}: {len(done[run_name])} tried, {len(missed)} missed", *missed, sep="\n  ", flush=True)
            if arguments.results:
                with arguments.results.open("a") as file:
                    file.write(json.dumps({run_name: [asdict(result) for result in done[run_name]]}) + "\n")
    print(*table([result for results in done.values() for result in results]), sep="\n")


if __name__ == "__main__":
    main()
