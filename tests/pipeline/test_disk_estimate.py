from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

import deploytool
from deploytool.errors import ResourceExhausted
from deploytool.host import memory_estimate
from deploytool.loading.weights_file import size
from deploytool.pipeline import disk_estimate, runner
from deploytool.pipeline.recipe import PIPELINE
from deploytool.spec import Job, Options, Source, Stage, Tensor
from tests.conftest import TINY

_USAGE = namedtuple("_USAGE", "total used free")  # the fields of shutil.disk_usage


def test_a_run_writes_no_more_than_is_estimated(finished: Path, with_engine: Options) -> None:
    weights = (finished / "load" / "weights.safetensors").stat().st_size
    written = sum(path.stat().st_size for path in finished.rglob("*") if path.is_file())
    assert written < disk_estimate.needed(PIPELINE, TINY, with_engine, weights)


def test_the_estimate_is_the_sum_over_stages() -> None:
    options = Options(images=0)
    needed = disk_estimate.needed((Stage.LOAD, Stage.EXPORT), TINY, options, 10_000) - disk_estimate.LEAST
    assert needed == 20_000
    assert disk_estimate.needed((Stage.FP16,), TINY, options, 10_000) - disk_estimate.LEAST == 5_000


def test_golden_inputs_count_by_their_type() -> None:
    tensors = (Tensor("a", ("batch", 3, 10)), Tensor("b", ("batch", 7), "int64"), Tensor("c", ("batch",), "bool"))
    assert [memory_estimate.case_bytes([tensor], {}) for tensor in tensors] == [120, 56, 1]


def test_only_a_safetensors_file_has_a_weight_size_before_loading(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pth"):
        (tmp_path / name).write_bytes(bytes(100))
    assert [size(Source(str(tmp_path / name), "")) for name in ("a.safetensors", "a.pth")] == [100, 0]
    assert size(None) == 0


@pytest.mark.integration
def test_a_run_is_refused_as_soon_as_its_weights_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_estimate, "LEAST", 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _USAGE(10**9, 0, 150_000))
    with pytest.raises(ResourceExhausted, match=r"run has 150 KB free, and a run of tiny takes \d+ KB"):
        deploytool.export(TINY, quick=True, images=4, out=tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"load"}


def test_a_finished_run_needs_no_estimate(
    finished: Path, with_engine: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_estimate, "check", None)
    monkeypatch.setattr(memory_estimate, "check", None)
    assert not any(made.fresh for made in runner.run(Job(TINY, with_engine), PIPELINE, finished))


def test_a_continued_run_estimates_its_remaining_stages(
    run_copy: Path, with_engine: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = list[tuple[str, ...]]()
    monkeypatch.setattr(disk_estimate, "check", lambda recipe, *_: recipes.append(tuple(recipe)))
    weights = list[float]()
    monkeypatch.setattr(memory_estimate, "check", lambda size, job: weights.append(size))
    shutil.rmtree(run_copy / "known_issues")
    list(runner.run(Job(TINY, with_engine), PIPELINE, run_copy))
    assert recipes[0] == PIPELINE[PIPELINE.index("known_issues") :]
    assert weights == [(run_copy / "load" / "weights.safetensors").stat().st_size]


@pytest.mark.integration
def test_a_model_with_too_large_weights_is_refused_before_it_is_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list[float]()

    def check(weights: float, job: object) -> None:
        sizes.append(weights)
        if weights:
            raise ResourceExhausted("too large", "use less")

    monkeypatch.setattr(memory_estimate, "check", check)
    with pytest.raises(ResourceExhausted, match="too large"):
        deploytool.export(TINY, quick=True, out=tmp_path / "run")
    assert sizes[0] == 0
    assert sizes[1] > 1000
