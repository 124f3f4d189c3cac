"""Fixtures of the report tests: a run with a planted fault, and headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from playwright.sync_api import Browser, sync_playwright

from deploytool.loading.stage_inputs import StageInputs
from deploytool.pipeline import runner
from deploytool.pipeline.recipe import PIPELINE
from deploytool.results.artifact import Notes
from deploytool.spec import Job, Options
from deploytool.stages import simplify
from tests.conftest import TINY

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def failing(finished: Path, with_engine: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run, repeated with a simplifier that zeroes a channel; tests must not change it."""
    home = Path(shutil.copytree(finished, tmp_path_factory.mktemp("failing") / "tiny"))
    shutil.rmtree(home / "simplify")
    original = simplify.make

    def zero_a_channel(job: Job, out: Path, inputs: StageInputs) -> Notes:
        notes = original(job, out, inputs)
        graph = onnx.load(out)
        name = next(node.input[1] for node in graph.graph.node if node.op_type == "Conv" and "depthwise" in node.name)
        weights = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
        values = numpy_helper.to_array(weights).copy()
        values[np.abs(values).sum(axis=(1, 2, 3)).argmax()] = 0
        weights.CopyFrom(numpy_helper.from_array(values, name))
        onnx.save(graph, out)
        return notes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simplify, "make", zero_a_channel)
        list(runner.run(Job(TINY, with_engine), PIPELINE, home))
    return home


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The Chromium of the system; skips the test if there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()
