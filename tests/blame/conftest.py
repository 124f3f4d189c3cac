"""Runs of small models as far as the FP16 graph, cached for the session."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from deploytool.loading import catalog
from deploytool.pipeline import runner
from deploytool.spec import Job, Stage, Tensor
from tests.conftest import QUICK, TINY

RECIPE = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.FP16)
MODELS = {
    "tiny": TINY,
    **{
        name: catalog.find(name, [Tensor("input", ("batch", 3, 64, 64))])
        for name in ("shufflenet_g3_x0_25", "mobilenet_v1_025")
    },
}

MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """A run of one of `MODELS` as far as the FP16 graph, made once; tests must not change it."""
    cache: dict[tuple[str, str, int], Path] = {}

    def run(name: str, exporter: str = "torchscript", seed: int = 0) -> Path:
        key = (name, exporter, seed)
        if key not in cache:
            cache[key] = tmp_path_factory.mktemp("traced") / name
            options = dataclasses.replace(QUICK, exporter=exporter, seed=seed)
            list(runner.run(Job(MODELS[name], options), RECIPE, cache[key]))
        return cache[key]

    return run
