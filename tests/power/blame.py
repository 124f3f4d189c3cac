"""Measures how often blame finds the stage and the module of a planted fault: `make power`.

Faults are planted at random nodes of the graphs of a run. A fault that no check of the run detects is not counted.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from deploytool.blame.locate import locate
from deploytool.pipeline import runner
from deploytool.spec import Job, Model, Options, Stage
from tests.blame import faults
from tests.power.models import ZOO, small

STAGES = (Stage.EXPORT, Stage.SIMPLIFY, Stage.FP16)
RECIPE = (Stage.LOAD, Stage.GOLDEN, *STAGES)
# operator, class of the module that it comes from, and faults
KINDS = (
    ("Conv", "Conv2d", (faults.scale_filter, faults.zero_channel, faults.permute_channels, faults.drop_bias)),
    ("Conv", "Conv2d", (faults.flip_kernel, faults.move_padding)),
    ("Relu", "ReLU", (faults.replace_by_identity, faults.bypass)),
    ("Transpose", "ChannelShuffle", (faults.drop_permutation,)),
    ("Gemm", "Linear", (faults.scale_filter, faults.drop_bias)),
)


@dataclass(frozen=True)
class Plant:
    """One planted fault, and the stage and module that blame finds; None if it finds no fault."""

    stage: str
    fault: str
    modules: tuple[str, ...]
    finding: tuple[str, str] | None

    @property
    def comparison(self) -> bool:
        """Whether the stage is correct."""
        return self.finding is not None and self.finding[0] == self.stage

    @property
    def layer(self) -> bool:
        """Whether stage and module are correct."""
        return self.comparison and self.finding is not None and self.finding[1] in self.modules


def plant_faults(model: Model, options: Options, home: Path, count: int) -> Iterator[Plant]:
    """Plants up to `count` faults of every kind in every graph of a run."""
    paths = {artifact.made_by: artifact.path for artifact in runner.run(Job(model, options), RECIPE, home)}
    rng = np.random.default_rng(options.seed)
    for stage in STAGES:
        nodes = onnx.load(paths[stage]).graph.node
        for op, kind, faults_of_kind in KINDS:
            calls = faults.modules_in_call_order(paths[Stage.LOAD], kind)
            if len(calls) != sum(node.op_type == op for node in nodes):
                continue  # nodes cannot be assigned to modules by order
            for fault in faults_of_kind:
                for number in rng.permutation(len(calls))[:count]:
                    faulty = home / "faulty.onnx"
                    try:
                        faults.plant(paths[stage], faulty, op, int(number), fault)
                    except AssertionError:
                        continue  # this node cannot have this fault
                    graphs = [(name, faulty if name == stage else paths[name]) for name in STAGES]
                    result = locate(paths[Stage.LOAD], paths[Stage.GOLDEN], graphs)[0].finding
                    finding = (result.stage, result.module) if result else None
                    yield Plant(stage, fault.__name__, tuple(sorted(calls[int(number)])), finding)


def main() -> None:
    """Prints every fault that blame misattributes, and the numbers of correct attributions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2, help="faults of each kind in each graph of each run")
    parser.add_argument("--models", nargs="+", default=ZOO, help="models to use")
    arguments = parser.parse_args()
    score: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            for exporter in ("torchscript", "dynamo"):
                options = Options(seed=200, exporter=exporter)
                home = Path(folder) / f"{name}_{exporter}"
                for plant in plant_faults(small(name), options, home, arguments.count):
                    score.update({(plant.stage, "planted"): 1, (plant.stage, "detected"): plant.finding is not None})
                    score.update({(plant.stage, "comparison"): plant.comparison, (plant.stage, "layer"): plant.layer})
                    if plant.finding and not plant.layer:
                        print(f"{name}, {exporter}: {plant}", flush=True)
    words = ("planted", "detected", "comparison", "layer")
    for stage in STAGES:
        print(stage, *(f"{word} {score[stage, word]}" for word in words), sep=", ")


if __name__ == "__main__":
    main()
