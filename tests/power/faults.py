"""What the checks of a run catch, measured on pictures that no run has seen: `make power`.

Faults of all families and sizes are planted in the graphs that ship. The size of a fault is the largest error it makes
on 256 crops of photographs, in multiples of the tolerance; whether it is caught is judged on the run's own golden
images alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
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

PICTURES = 256
RECIPE = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.FP16)
BANDS = {"> 4×": (4.0, np.inf), "2–4×": (2.0, 4.0), "1–2×": (1.0, 2.0), "< 1×": (-1.0, 1.0)}
NAMES = {GRAPH: "graph check", ENGINE: "FP16 check"}


@dataclass(frozen=True)
class Result:
    """One fault in one check: its size on the pictures, in multiples of the tolerance, and whether it was caught.

    A fault that is proved to change nothing has no check.
    """

    model: str
    family: str
    place: str
    check: str = ""
    size: float = 0.0
    caught: bool = False


def planted(model: Model, options: Options, home: Path, count: int) -> Iterator[Result]:
    """Plants up to `count` faults of every family in the FP16 graph of one run."""
    made = {each.made_by: each.path for each in runner.run(Job(model, options), RECIPE, home)}
    weights, recorded = made[Stage.LOAD], made[Stage.GOLDEN]
    subject = run.subject(weights, recorded, made[Stage.SIMPLIFY], made[Stage.FP16], half=True, wanted={}, fresh=1)
    bench = run.prepare(subject)
    assert bench.sound, "the sound run fails"
    seen = _unseen(model)
    with onnxruntime.start(bench.graph.model.SerializeToString()) as session:
        expected = replay(session, seen)
    for number, family in enumerate(families.FAMILIES):
        rng = np.random.default_rng((options.seed, number))
        for fault in islice(families.load(family).faults(bench.graph, rng), count):
            if fault.same is not None:
                yield Result(model.name, family, fault.place)
                continue
            effect = _effect(bench.graph, fault, seen, expected)
            for check, trial in run.try_fault(bench, fault).items():
                size = effect / bench.checks[check].tolerance.max_error
                yield Result(model.name, family, fault.place, check, size, trial.caught)


def _unseen(model: Model) -> Arrays:
    """Inputs that no run has seen: photographs for a model of pictures, and else what such a model is fed."""
    if model.preprocessing.images(model.inputs):
        pixels = pictures.crops(PICTURES, model.preprocessing)
        return {model.inputs[0].name: images.normalise(pixels, model.preprocessing)}
    _, seen = synthetic.draw(model, PICTURES, 77_777, {})
    return seen


def _effect(sound: FaultGraph, fault: Fault, seen: Arrays, expected: Arrays) -> float:
    """How far a fault moves the answers, each part of them by its own size; infinitely far if nothing runs any more.

    The parts are told by code that shares nothing with the check: what it is blind for, this is not.
    """
    faulty = sound.copy()
    fault.plant(faulty)
    try:
        with onnxruntime.start(faulty.model.SerializeToString()) as session:
            answers = replay(session, seen)
        return truth.compare("", _halves(answers), _halves(expected), fp16=False, typical=1.0).error
    except (StageFailed, ValueError):
        return np.inf


def _halves(answers: Arrays) -> dict[str, list[truth.Array]]:
    """Answers in two halves, as the truth of the sweep takes them."""
    cut = PICTURES // 2
    parts = {"fresh": slice(0, cut), "fresh again": slice(cut, None)}
    return {name: [answer[part] for answer in answers.values()] for name, part in parts.items()}


def table(results: list[Result]) -> list[str]:
    """The table of docs/benchmarks.md: the faults of each family that were caught, by their size."""
    shown = [(check, band) for check in NAMES for band in list(BANDS)[:2]]
    rows: dict[str, Counter[object]] = defaultdict(Counter)
    for each in results:
        for row in (rows[each.family.replace("_", " ")], rows["all"]):
            row["planted"] += each.check in ("", GRAPH)
            row["same"] += not each.check
            band = next(name for name, (low, high) in BANDS.items() if low < each.size <= high)
            row[each.check, band] += 1
            row[each.check, band, "caught"] += each.caught
    rows["all"] = rows.pop("all")
    titles = ["fault", "planted", "no change, proved", *(f"{NAMES[check]}, {band}" for check, band in shown)]
    lines = [_line(titles), "|---" * len(titles) + "|"]
    for family, row in rows.items():
        cells = [f"{row[(*each, 'caught')]} of {row[each]}" if row[each] else "–" for each in shown]
        lines.append(_line([family, str(row["planted"]), str(row["same"] or "–"), *cells]))
    return lines


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints the table, and before it every fault of more than twice the tolerance that was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12, help="faults of each family in each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each model")
    parser.add_argument("--models", nargs="+", default=MODELS, help="which of them")
    asked = parser.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.models:
            for seed in range(asked.seeds):
                options = Options(seed=100 + seed, exporter=("torchscript", "dynamo")[seed % 2])
                found = list(planted(small(name, seed), options, Path(folder) / f"{name}_{seed}", asked.count))
                missed = [each for each in found if each.size > 2 and not each.caught]
                print(
                    f"{name}, seed {seed}: {len(found)} judged, {len(missed)} missed", *missed, sep="\n  ", flush=True
                )
                results += found
    print(*table(results), sep="\n")


if __name__ == "__main__":
    main()
