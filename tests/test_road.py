"""The twelve main models down the whole road, and the whole zoo with `make test-all`."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path

import onnx
import pytest

from deploytool import catalog, factory, machine, pipeline, report, targets, verdict
from deploytool.measure import parity
from deploytool.report import Hop
from deploytool.spec import Job, Options

factory.mount_zoo()
MAIN: tuple[str, ...] = import_module("deploytool.models.specs").MAIN
QUICKEST = ("shufflenet_g3", "mobilenet_v1_cifar", "squeezenet1_1")
OTHERS = tuple(model.name for model in catalog.models() if model.name not in QUICKEST)


def errors(hop: Hop) -> list[float]:
    return [check.parity.max_error for check in hop.checks]


def walk(name: str, home: Path) -> None:
    decisions = targets.decide(())
    options = Options(seconds=0.1, targets=decisions, engines=targets.engines(decisions))
    made = list(pipeline.run(Job(catalog.find(name), options), targets.ROAD, home))
    written = report.read(made[-1].path)
    assert verdict.broken(written) == ()
    hops = {hop.stage: hop for hop in written.hops}
    assert {hop.status for verb, hop in hops.items() if verb != "build"} == {report.MEASURED}
    assert all(
        error <= 1e-5
        for verb in ("record", "script", "translate", "simplify", "rewrite")
        for error in errors(hops[verb])
    )
    assert all(error <= parity.COARSEST for error in errors(hops["halve"]))
    assert written.proof is not None
    assert written.proof.families
    assert all(check.parity.top1 == 1.0 for hop in written.hops for check in hop.checks)
    for verb in ("translate", "simplify", "rewrite", "halve"):
        onnx.checker.check_model(onnx.load(home / verb / "graph.onnx"), full_check=True)
    assert (home / "build" / "engine.plan").stat().st_size > 100_000


@pytest.mark.parametrize("name", QUICKEST)
def test_a_main_model_goes_down_the_road(name: str, tmp_path: Path) -> None:
    walk(name, tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("name", OTHERS)
def test_every_model_goes_down_the_road(name: str, tmp_path: Path) -> None:
    walk(name, tmp_path)


def test_the_dynamo_exporter_goes_down_the_same_road(tmp_path: Path) -> None:
    options = Options(exporter="dynamo", opset=20, seconds=0.1)
    recipe = [verb for verb in targets.ROAD if verb != "build"]
    made = list(pipeline.run(Job(catalog.find("shufflenet_g3_x0_25"), options), recipe, tmp_path))
    assert verdict.broken(report.read(made[-1].path)) == ()


def test_another_seed_is_another_model_that_passes_too(tmp_path: Path) -> None:
    model = catalog.find("shufflenet_g3_x0_25")
    recipe = [verb for verb in targets.ROAD if verb != "build"]
    weights = []
    for seed in (1, 2):
        job = Job(model, dataclasses.replace(Options(seconds=0.1), seed=seed))
        made = list(pipeline.run(job, recipe, tmp_path / str(seed)))
        assert verdict.broken(report.read(made[-1].path)) == ()
        weights.append(made[0].path.read_bytes())
    assert weights[0] != weights[1]


@pytest.mark.gpu
def test_on_a_gpu_everything_is_measured_on_it(tmp_path: Path) -> None:
    recipe = [verb for verb in targets.ROAD if verb != "build"]
    job = Job(catalog.find("shufflenet_g3"), Options(seconds=1.0))
    written = report.read(list(pipeline.run(job, recipe, tmp_path))[-1].path)
    assert written.device == machine.gpus()[0].name
    assert verdict.broken(written) == ()
    assert {speed.status for speed in written.speeds} == {report.MEASURED}
    assert {hop.device for hop in written.hops} == {"cpu", "cuda"}
