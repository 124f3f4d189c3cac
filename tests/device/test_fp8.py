"""Bundles with FP8 on a device: engines are built and served where the GPU has it, and proved by their own answers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deploytool.benchmark.ratio import Ratio
from deploytool.bundle import int8_files
from deploytool.bundle.int8 import Int8Graph
from deploytool.bundle.manifest import (
    NARROW_SCHEMA,
    Manifest,
    Role,
    describe_file,
    read_manifest,
    schema_of,
    write_manifest,
)
from deploytool.data import golden
from deploytool.device import answers as device_answers
from deploytool.device import build, commands, messages, verify
from deploytool.device.build import Record
from deploytool.device.candidates import Candidate, Tier
from deploytool.device.commands import BuildResult
from deploytool.device.probe import Race
from deploytool.device.verify import Integrity
from deploytool.errors import Refused
from deploytool.parity import fp8_answers
from deploytool.precision.int8 import calibration, quantize
from deploytool.precision.int8.calibration import Method
from deploytool.results.int8_forms import Form
from deploytool.spec import Precision
from tests.device.test_build import LAPTOP, TRIAL, works

FORM, GRAPH, ANSWERS = Form.E4M3, "engines/fp8.onnx", "golden/fp8.npz"


@pytest.fixture(scope="module")
def with_fp8(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with an FP8 graph, and an engine that is said to be in FP8."""
    folder = Path(shutil.copytree(packed, tmp_path_factory.mktemp("fp8") / "bundle"))
    manifest = read_manifest(folder)
    source, sample = onnx.load(folder / manifest.graphs[0].path), golden.read(folder / manifest.golden.path)
    table = calibration.collect(source, quantize.activations(source, FORM), [sample.inputs])
    graph = quantize.quantize(source, table.ranges(Method.MIN_MAX, symmetric=True), FORM)
    (folder / "engines").mkdir(exist_ok=True)
    onnx.save(graph, folder / GRAPH)
    recorded = fp8_answers.record(graph, sample.inputs)
    golden.write_answers(folder / ANSWERS, recorded)
    entry = Int8Graph(GRAPH, FORM, (), ANSWERS, fp8_answers.limits(graph, recorded, sample))
    more = (describe_file(folder, GRAPH, Role.GRAPH), describe_file(folder, ANSWERS, Role.GOLDEN))
    (engine,) = manifest.engines
    shutil.copy(folder / engine.file.path, folder / "engines" / "fp8.plan")
    narrow = replace(engine, file=describe_file(folder, "engines/fp8.plan", Role.ENGINE), precision=Precision.FP8)
    changed = replace(
        manifest,
        graphs=(*manifest.graphs, int8_files.graph_entry(folder / GRAPH, GRAPH, Precision.FP8)),
        files=tuple(sorted((*manifest.files, *more), key=lambda file: file.path)),
        engines=(*manifest.engines, replace(narrow, capabilities=("8.9", "12.0"))),
        int8=(entry,),
    )
    write_manifest(folder, changed)
    return folder


def tried(folder: Path, outputs: Mapping[str, Any]) -> bool:
    """Whether these outputs of the FP8 engine prove it."""
    manifest = read_manifest(folder)
    candidate = next(each for each in verify.run_candidates(verify.check_integrity(folder), LAPTOP) if each.answers)
    sample = golden.read(folder / manifest.golden.path)
    return not device_answers.check(outputs, sample, folder, manifest, candidate).broken


def test_an_engine_is_proved_by_the_answers_of_its_graph(with_fp8: Path) -> None:
    sample = golden.read(with_fp8 / "golden" / "golden.npz")
    answers = golden.read_answers(with_fp8 / ANSWERS)
    assert tried(with_fp8, answers)
    assert not tried(with_fp8, {name: -array for name, array in answers.items()})
    assert np.abs(answers["logits"] - sample.reference["logits"]).max() > 0


@pytest.mark.parametrize(("capability", "absent"), [("8.9", False), ("12.0", False), ("8.6", True)])
def test_an_engine_is_for_gpus_that_have_fp8(with_fp8: Path, capability: str, absent: bool) -> None:
    here = replace(LAPTOP, capability=capability)
    found = [each for each in verify.run_candidates(verify.check_integrity(with_fp8), here) if each.tier is Tier.ENGINE]
    (narrow,) = (each for each in found if each.precision is Precision.FP8)
    assert bool(narrow.absent and "compute capability" in narrow.absent) is absent
    assert narrow.answers == ANSWERS
    assert build.in_eight_bits(read_manifest(with_fp8), here) == (() if absent else (Precision.FP8,))


def test_an_engine_is_built_beside_fp16_and_serves_if_it_is_faster(with_fp8: Path, tmp_path: Path) -> None:
    checked, built = verify.check_integrity(with_fp8), tmp_path / "tiny.built"
    common = (checked.folder, checked.manifest, LAPTOP, built)

    def racer(first: Candidate, second: Candidate) -> Race:
        assert (first.precision, second.precision, second.answers) == (Precision.FP16, Precision.FP8, ANSWERS)
        return Race(first.tier, second.tier, first.tier, 1, Ratio(1.2, 1.1, 1.3))

    half = build.build(*common, works, lambda *step: None)
    fp8 = build.build_narrow(*common, half, works, racer, lambda *step: None, Precision.FP8)
    assert (fp8.precision, fp8.trial, fp8.gain) == (Precision.FP8, TRIAL, Ratio(1.2, 1.1, 1.3))
    assert [each.precision for each in build.built_candidates(*common)] == [Precision.FP8, Precision.FP16]
    assert "FP8 has 1.20× (1.10–1.30) the speed of FP16" in "\n".join(messages.build_lines(fp8, built))
    build._write(built, replace(fp8, gain=Ratio(1.2, 0.9, 1.3)))
    assert [each.precision for each in build.built_candidates(*common)] == [Precision.FP16]


def test_build_makes_one_in_each_precision_of_the_bundle(with_fp8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Precision] = []

    def build_narrow(*arguments: Any) -> Record:
        made.append(arguments[-1])
        return record

    checked = verify.check_integrity(with_fp8)
    file = describe_file(with_fp8, GRAPH, Role.ENGINE)
    fields = ("", "", "tensorrt_rtx", "1", "g", "8.9", "13.0", Precision.FP8, Precision.FP32, file, TRIAL)
    record = Record(*fields)
    monkeypatch.setattr(build, "build", lambda *_: replace(record, precision=Precision.FP16))
    monkeypatch.setattr(build, "build_narrow", build_narrow)
    monkeypatch.setattr(commands, "detect", lambda: LAPTOP)
    done = commands.build(with_fp8, say=lambda line: None)
    assert isinstance(done.document, BuildResult)
    assert (made, done.document.int8, done.document.fp8) == ([Precision.FP8], None, record)
    assert isinstance(checked, Integrity)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda manifest: {"int8": ()}, "an FP8 graph has no golden answers"),
        (
            lambda manifest: {"int8": (), "graphs": manifest.graphs[:-1]},
            "an FP8 engine has no golden answers",
        ),
        (
            lambda manifest: {"int8": (replace(manifest.int8[0], form=Form.TENSORRT),)},
            "an INT8 graph has no golden answers",
        ),
    ],
)
def test_an_invalid_manifest_is_refused(with_fp8: Path, tmp_path: Path, change: Any, problem: str) -> None:
    folder = Path(shutil.copytree(with_fp8, tmp_path / "bundle"))
    manifest: Manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, **change(manifest)))
    with pytest.raises(Refused, match=problem):
        read_manifest(folder)
    assert schema_of(manifest.graphs, manifest.engines, ()) == NARROW_SCHEMA
