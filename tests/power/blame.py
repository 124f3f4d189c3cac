"""Whether blame names the comparison and the module of a fault whose place is known: `make power`.

Faults are planted at random places of the graphs that a run leaves behind. A fault that no check of the run notices is
not counted: nobody would ask for the blame.
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
# kind of node, the module that makes it, and what can be wrong with it
KINDS = (
    ("Conv", "Conv2d", (faults.scale_filter, faults.zero_channel, faults.permute_channels, faults.drop_bias)),
    ("Conv", "Conv2d", (faults.flip_kernel, faults.move_padding)),
    ("Relu", "ReLU", (faults.replace_by_identity, faults.bypass)),
    ("Transpose", "ChannelShuffle", (faults.drop_permutation,)),
    ("Gemm", "Linear", (faults.scale_filter, faults.drop_bias)),
)


@dataclass(frozen=True)
class Plant:
    """One fault: where it is, and what blame says."""

    stage: str
    fault: str
    modules: tuple[str, ...]
    said: tuple[str, str] | None

    @property
    def comparison(self) -> bool:
        """Whether the comparison is named right."""
        return self.said is not None and self.said[0] == self.stage

    @property
    def layer(self) -> bool:
        """Whether the module is."""
        return self.comparison and self.said is not None and self.said[1] in self.modules


def plants(model: Model, options: Options, home: Path, count: int) -> Iterator[Plant]:
    """Plants `count` faults of every kind in every graph of a run."""
    made = {each.made_by: each.path for each in runner.run(Job(model, options), RECIPE, home)}
    rng = np.random.default_rng(options.seed)
    for stage in STAGES:
        nodes = onnx.load(made[stage]).graph.node
        for op, kind, ways in KINDS:
            calls = faults.modules_in_call_order(made[Stage.LOAD], kind)
            if len(calls) != sum(node.op_type == op for node in nodes):
                continue  # so the order of the calls says nothing about the nodes
            for fault in ways:
                for number in rng.permutation(len(calls))[:count]:
                    faulty = home / "faulty.onnx"
                    try:
                        faults.plant(made[stage], faulty, op, int(number), fault)
                    except AssertionError:
                        continue  # a node that cannot have this fault
                    graphs = [(each, faulty if each == stage else made[each]) for each in STAGES]
                    found = locate(made[Stage.LOAD], made[Stage.GOLDEN], graphs)[0].finding
                    said = (found.stage, found.module) if found else None
                    yield Plant(stage, fault.__name__, tuple(sorted(calls[int(number)])), said)


def main() -> None:
    """Prints every plant that blame got wrong, and how many it got right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2, help="faults of each kind in each graph of each run")
    parser.add_argument("--models", nargs="+", default=ZOO, help="which of them")
    asked = parser.parse_args()
    score: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.models:
            for exporter in ("torchscript", "dynamo"):
                options = Options(seed=200, exporter=exporter)
                for each in plants(small(name), options, Path(folder) / f"{name}_{exporter}", asked.count):
                    score.update({(each.stage, "planted"): 1, (each.stage, "noticed"): each.said is not None})
                    score.update({(each.stage, "comparison"): each.comparison, (each.stage, "layer"): each.layer})
                    if each.said and not each.layer:
                        print(f"{name}, {exporter}: {each}", flush=True)
    for stage in STAGES:
        print(
            stage, *(f"{word} {score[stage, word]}" for word in ("planted", "noticed", "comparison", "layer")), sep=", "
        )


if __name__ == "__main__":
    main()
