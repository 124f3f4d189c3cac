from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from deploytool.bundle.manifest import read_manifest
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

DESK = Environment("linux", "x86_64", "L4", "8.9", "13.0", {})


def test_a_graph_with_fp16_io_has_fp32_inputs_and_outputs(run_copy: Path) -> None:
    """`--io fp16` is between the graph and its backend: whoever calls sees FP32."""
    options = dataclasses.replace(QUICK, io=Precision.FP16)
    recipe = [verb for verb in PIPELINE if verb != Stage.BUILD]
    list(runner.run(Job(TINY, options), recipe, run_copy))
    folder = runner.extend(Stage.PACK, options, run_copy).path.parent
    manifest = read_manifest(folder)
    assert [graph.io for graph in manifest.graphs] == ["fp32", "fp16"]
    assert "TYPE_FP16" in (folder / "models" / "tiny_fp16" / "config.pbtxt").read_text()
    way = next(way for way in verify.run_candidates(verify.check_integrity(folder), DESK) if way.tier == Tier.ORT_CUDA)
    sample = golden.read(folder / manifest.golden.path)
    with open_candidate(dataclasses.replace(way, device="cpu")) as session:
        got = session(**sample.inputs)["logits"]
    assert got.dtype == np.float32
    assert np.abs(got - sample.reference["logits"]).max() < 2e-3 * np.abs(sample.reference["logits"]).max()


def test_the_bytes_that_were_hashed_are_loaded_although_the_file_is_replaced(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is another from the moment it has been read and hashed: right between the check and the use."""
    folder = Path(shutil.copytree(packed, tmp_path / "bundle"))
    way = verify.run_candidates(verify.check_integrity(folder), DESK)[-1]
    sample = golden.read(folder / read_manifest(folder).golden.path)
    usual = files.read_verified

    def swapped(path: Path, size: int, sha256: str) -> bytes:
        content = usual(path, size, sha256)
        path.write_bytes(b"no graph at all")
        return content

    monkeypatch.setattr(files, "read_verified", swapped)
    with open_candidate(way) as session:
        got = session(**sample.inputs)["logits"]
    assert np.abs(got - sample.reference["logits"]).max() < 1e-4 * np.abs(sample.reference["logits"]).max()
    with pytest.raises(Refused), open_candidate(way):
        pass


def test_a_file_with_another_digest_is_not_opened(packed: Path) -> None:
    way = verify.run_candidates(verify.check_integrity(packed), DESK)[-1]
    with pytest.raises(Refused), open_candidate(dataclasses.replace(way, sha256="0" * 64)):
        pass
