from __future__ import annotations

import dataclasses
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from deploytool.backends import tensorrt
from deploytool.bundle.manifest import read_manifest, write_manifest
from deploytool.data import golden
from deploytool.device import verify
from deploytool.device.candidates import Tier
from deploytool.device.environment import Environment
from deploytool.device.session import open_candidate
from deploytool.errors import Refused
from deploytool.host import files
from deploytool.pipeline import runner
from deploytool.pipeline.recipe import PIPELINE
from deploytool.spec import Job, Precision, Stage
from tests.conftest import QUICK, TINY
from tests.device.ort_cpu import ort_cpu

GPU_HOST = Environment("linux", "x86_64", "L4", "8.9", "13.0", {})


def test_a_graph_with_fp16_io_has_fp32_inputs_and_outputs(run_copy: Path) -> None:
    """`--io fp16` affects the graph and its backend; a caller passes and receives FP32."""
    options = dataclasses.replace(QUICK, io=Precision.FP16)
    recipe = [stage for stage in PIPELINE if stage != Stage.BUILD]
    list(runner.run(Job(TINY, options), recipe, run_copy))
    folder = runner.extend(Stage.PACK, options, run_copy).path.parent
    manifest = read_manifest(folder)
    assert [graph.io for graph in manifest.graphs] == ["fp32", "fp16"]
    assert "TYPE_FP16" in (folder / "models" / "tiny_fp16" / "config.pbtxt").read_text()
    candidate = next(
        candidate
        for candidate in verify.run_candidates(verify.check_integrity(folder), GPU_HOST)
        if candidate.tier == Tier.ORT_CUDA
    )
    sample = golden.read(folder / manifest.golden.path)
    with open_candidate(dataclasses.replace(candidate, device="cpu")) as session:
        logits = session(**sample.inputs)["logits"]
    assert logits.dtype == np.float32
    assert np.abs(logits - sample.reference["logits"]).max() < 2e-3 * np.abs(sample.reference["logits"]).max()


def test_the_bytes_that_were_hashed_are_loaded_although_the_file_is_replaced(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced as soon as it has been read and hashed, before it is used."""
    folder = Path(shutil.copytree(packed, tmp_path / "bundle"))
    candidate = ort_cpu(folder, GPU_HOST)
    sample = golden.read(folder / read_manifest(folder).golden.path)
    original = files.read_verified

    def read_and_replace(path: Path, size: int, sha256: str) -> bytes:
        content = original(path, size, sha256)
        path.write_bytes(b"no graph at all")
        return content

    monkeypatch.setattr(files, "read_verified", read_and_replace)
    with open_candidate(candidate) as session:
        logits = session(**sample.inputs)["logits"]
    assert np.abs(logits - sample.reference["logits"]).max() < 1e-4 * np.abs(sample.reference["logits"]).max()
    with pytest.raises(Refused), open_candidate(candidate):
        pass


def test_a_stripped_engine_gets_the_weights_of_the_verified_graph(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "bundle"))
    manifest = read_manifest(folder)
    (engine,) = manifest.engines
    write_manifest(folder, dataclasses.replace(manifest, engines=(dataclasses.replace(engine, stripped=True),)))
    candidate = verify.run_candidates(verify.check_integrity(folder), GPU_HOST)[0]
    started: list[tuple[object, ...]] = []

    def start(*given: object) -> nullcontext[None]:
        started.append(given)
        return nullcontext()

    monkeypatch.setattr(tensorrt, "start", start)
    with open_candidate(candidate):
        pass
    graph = folder / manifest.graphs[1].path
    assert started == [(Path(candidate.path).read_bytes(), "cuda", "tensorrt_rtx", graph.read_bytes())]
    graph.write_bytes(b"other weights")
    with pytest.raises(Refused), open_candidate(candidate):
        pass


def test_a_file_with_another_digest_is_not_opened(packed: Path) -> None:
    candidate = ort_cpu(packed, GPU_HOST)
    with pytest.raises(Refused), open_candidate(dataclasses.replace(candidate, sha256="0" * 64)):
        pass
