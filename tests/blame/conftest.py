from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from deploytool.loading import catalog
from deploytool.pipeline import runner
from deploytool.spec import Job, Stage, Tensor
from tests.conftest import QUICK, TINY

ROAD = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.FP16)
MODELS = {
    "tiny": TINY,
    **{
        name: catalog.find(name, [Tensor("input", ("batch", 3, 64, 64))])
        for name in ("shufflenet_g3_x0_25", "mobilenet_v1_025")
    },
}

Runs = Callable[..., Path]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run of one of `MODELS` as far as the FP16 graph, made once; tests must not change it."""
    made: dict[tuple[str, str, int], Path] = {}

    def run(name: str, exporter: str = "torchscript", seed: int = 0) -> Path:
        key = (name, exporter, seed)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("traced") / name
            options = dataclasses.replace(QUICK, exporter=exporter, seed=seed)
            list(runner.run(Job(MODELS[name], options), ROAD, made[key]))
        return made[key]

    return run
