"""A graph beyond the limit of an ONNX file goes all the way with a side file, and gives the results of one file.

The limit is lowered, so that a small model is beyond it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from deploytool import serde
from deploytool.backends import fp16_emulation, onnxruntime, reference
from deploytool.blame import locate, reduce, reproducer
from deploytool.bundle.manifest import Role, read_manifest
from deploytool.data import golden
from deploytool.device import probe, verify
from deploytool.device.candidates import Tier
from deploytool.device.environment import Environment
from deploytool.device.session import open_candidate
from deploytool.device.verify import VerifyOptions
from deploytool.errors import BadInput, CorruptBundle, Refused
from deploytool.host import side_files
from deploytool.parity import intermediates
from deploytool.pipeline import runner
from deploytool.pipeline.recipe import PIPELINE
from deploytool.results import receipt as receipts
from deploytool.results import report, verdict
from deploytool.results.faults import FaultsResult
from deploytool.rewrites.graph import storage, weights
from deploytool.spec import Job, Options, Stage
from tests import large
from tests.conftest import QUICK, TINY, Command
from tests.transfer import servers

MODEL = replace(TINY, name="large", factory=f"{Path(large.__file__)}:large", options={})
RECIPE = (*(stage for stage in PIPELINE if stage not in (Stage.SIMPLIFY, Stage.BUILD)), Stage.PACK)
TO_EXPORT = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT)
STAGES = (Stage.EXPORT, Stage.REWRITE, Stage.FP16)
FILE = f"model.onnx{side_files.SUFFIX}"
HERE = Environment("linux", "x86_64")

pytestmark = pytest.mark.integration


def exported(home: Path, options: Options, recipe: tuple[Stage, ...] = RECIPE) -> Path:
    list(runner.run(Job(MODEL, options), recipe, home))
    return home


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the one-file form, without onnxsim."""
    return exported(tmp_path_factory.mktemp("single") / "large", replace(QUICK, faults=2))


@pytest.fixture(scope="module")
def lowered(single: Path) -> Iterator[None]:
    """Lowers the limit, after the run of the one-file form."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "MAX_INLINE_BYTES", large.LIMIT)
        yield


@pytest.fixture(scope="module")
def split(lowered: None, tmp_path_factory: pytest.TempPathFactory, with_engine: Options) -> Path:
    """The run with side files and an engine."""
    return exported(tmp_path_factory.mktemp("split") / "large", replace(with_engine, faults=2), (*PIPELINE, Stage.PACK))


@pytest.fixture
def copy(split: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(split, tmp_path / "copy"))


def graph(run: Path, stage: Stage) -> Path:
    return run / stage / "model.onnx"


def one_file(path: Path) -> bytes:
    return weights.serialise(weights.inlined(storage.load(path)))


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("stage", STAGES)
def test_every_graph_has_a_side_file_and_the_same_content(single: Path, split: Path, stage: Stage) -> None:
    assert side_files.side_file(graph(split, stage)).is_file()
    assert not side_files.side_file(graph(single, stage)).exists()
    assert one_file(graph(split, stage)) == graph(single, stage).read_bytes()
    assert sorted(path.name for path in graph(split, stage).parent.iterdir()) == ["model.onnx", FILE, "receipt.json"]


def test_both_forms_have_the_same_errors_and_faults(single: Path, split: Path) -> None:
    of_single, of_split = (report.read(run / Stage.VALIDATE / "report.json") for run in (single, split))
    assert verdict.failed_lines(of_split) == ()
    errors = [
        {
            (each.stage, check.against): check.parity.max_error
            for each in of.comparisons
            for check in each.checks
            if each.stage
            is not Stage.TORCHSCRIPT  # that of a large model is not frozen: its batch norms are not folded
        }
        for of in (of_single, of_split)
    ]
    common = {key for key in errors[0] if key in errors[1]}
    assert len(common) >= 8
    assert {key: errors[0][key] for key in common} == {key: errors[1][key] for key in common}
    assert of_split.fp16_range == of_single.fp16_range
    assert fault_counts(split) == fault_counts(single)


def fault_counts(run: Path) -> FaultsResult:
    """The result of the faults without errors: ONNX Runtime does not optimise a large graph in that stage."""
    result = serde.decode(FaultsResult, json.loads((run / "faults/faults.json").read_text(encoding="utf-8")))
    families = [
        replace(family, by_check={name: replace(count, smallest=None) for name, count in family.by_check.items()})
        for family in result.families
    ]
    return replace(result, families=tuple(families))


def test_what_is_left_out_is_said_in_one_remark_a_stage(split: Path) -> None:
    remarks = {stage: receipt.notes["remarks"] for stage in STAGES if (receipt := receipts.read(split / stage))}
    simplified = receipts.read(split / Stage.SIMPLIFY)
    assert simplified is not None
    assert simplified.notes["remarks"] == ["continued without onnxsim, which cannot hold a graph beyond 2 GB"]
    assert remarks[Stage.EXPORT] == []
    assert (split / Stage.BUILD / "model.plan").stat().st_size > 0


def test_dynamo_writes_a_side_file_with_the_same_content(lowered: None, tmp_path: Path) -> None:
    options = replace(QUICK, exporter="dynamo")
    split = exported(tmp_path / "split", options, TO_EXPORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "MAX_INLINE_BYTES", 1 << 20)
        single = exported(tmp_path / "single", options, TO_EXPORT)
    assert side_files.side_file(graph(split, Stage.EXPORT)).is_file()
    assert one_file(graph(split, Stage.EXPORT)) == graph(single, Stage.EXPORT).read_bytes()


def test_a_rewrite_that_is_requested_is_applied(split: Path, single: Path, tmp_path: Path) -> None:
    options, recipe = replace(QUICK, rewrite="folded"), (*TO_EXPORT, Stage.REWRITE)
    folded = exported(tmp_path / "split", options, recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "MAX_INLINE_BYTES", 1 << 20)
        expected = exported(tmp_path / "single", options, recipe)
    assert side_files.side_file(graph(folded, Stage.REWRITE)).is_file()
    assert one_file(graph(folded, Stage.REWRITE)) == graph(expected, Stage.REWRITE).read_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_a_changed_byte_of_a_side_file_is_noticed_by_the_receipt(copy: Path, stage: Stage) -> None:
    file = side_files.side_file(graph(copy, stage))
    content = file.read_bytes()
    for offset in (*range(0, len(content), 997), len(content) - 1):
        flip(file, offset)
        with pytest.raises(BadInput, match=f"{stage} has changed since its stage made it"):
            runner.artifacts(copy)
        file.write_bytes(content)
    runner.artifacts(copy)
    file.write_bytes(content + b"\0")
    with pytest.raises(BadInput, match="has changed"):
        runner.artifacts(copy)


def test_another_side_file_gives_another_artifact(split: Path) -> None:
    receipt = receipts.read(split / Stage.EXPORT)
    assert receipt is not None
    changed = replace(receipt, files={**receipt.files, FILE: "0" * 64})
    digests = {runner.artifact_of(split / Stage.EXPORT, each, fresh=False).digest for each in (receipt, changed)}
    assert len(digests) == 2


def test_the_manifest_lists_side_files(split: Path) -> None:
    manifest = read_manifest(split / Stage.PACK / "bundle")
    listed = {file.path: file.role for file in manifest.files}
    for item in manifest.graphs:
        assert listed[item.path] is Role.GRAPH
        assert listed[item.path + side_files.SUFFIX] is Role.WEIGHTS


def test_a_device_runs_the_bundle(split: Path) -> None:
    folder = split / Stage.PACK / "bundle"
    checked = verify.check_integrity(folder, VerifyOptions())
    prober = partial(probe.probe, folder=folder, manifest=checked.manifest, seconds=0.1)
    verified = verify.verify(checked, HERE, prober)
    assert verified.tier is Tier.ORT_CPU


def test_a_changed_byte_of_a_side_file_is_refused_by_a_device(copy: Path) -> None:
    folder = copy / Stage.PACK / "bundle"
    checked = verify.check_integrity(folder, VerifyOptions())
    (candidate,) = (each for each in verify.run_candidates(checked, HERE) if each.tier is Tier.ORT_CPU)
    (side,) = candidate.weights
    file = Path(side.path)
    content = file.read_bytes()
    for offset in (*range(0, len(content), 997), len(content) - 1):
        flip(file, offset)
        with pytest.raises(CorruptBundle, match="has other bytes than the manifest says"):
            verify.check_integrity(folder, VerifyOptions())
        with pytest.raises(Refused, match="has other bytes than the manifest says"), open_candidate(candidate):
            pass
        file.write_bytes(content)
    with pytest.raises(Refused, match="which no manifest lists"), open_candidate(replace(candidate, weights=())):
        pass


def test_a_registry_keeps_every_byte(split: Path, deploytool: Command, tmp_path: Path) -> None:
    if not servers.REGISTRY:
        pytest.skip("no docker-registry on this machine: apt-get install docker-registry")
    bundle = split / Stage.PACK / "bundle"
    with servers.registry(tmp_path) as running:
        address = f"oci://127.0.0.1:{running.port}/m:1"
        assert deploytool("push", str(bundle), address, "--plain-http").returncode == 0
        assert deploytool("pull", address, "--out", "out", "--plain-http").returncode == 0
        (blob,) = (path for path in running.storage.rglob("data") if path.read_bytes() == side(bundle).read_bytes())
        flip(blob, 5000)
        refused = deploytool("pull", address, "--out", "other", "--plain-http")
    assert side(tmp_path / "out").read_bytes() == side(bundle).read_bytes()
    assert refused.returncode in (8, 9)
    assert not (tmp_path / "other").exists()


def side(bundle: Path) -> Path:
    """The side file of the FP32 graph."""
    return bundle / "models" / "large" / "1" / FILE


def test_blame_finds_the_layer_of_a_large_graph(copy: Path, tmp_path: Path) -> None:
    path = graph(copy, Stage.FP16)
    model = weights.inlined(storage.load(path))
    (weight,) = (each for each in model.graph.initializer if each.dims == [64, 64])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float16(3), weight.name))
    storage.save(model, path)
    graphs = [(stage, graph(copy, stage)) for stage in STAGES]
    blame, divergence = locate.locate(copy / "load/weights.safetensors", copy / "golden/golden.npz", graphs)
    assert blame.finding is not None
    assert blame.finding.module == "layers.2"
    assert divergence is not None
    mismatch = reduce.reduce(divergence)
    assert mismatch is not None
    folder = reproducer.write(copy, divergence, mismatch)
    assert storage.load(folder / "model.onnx").graph.node


def test_ranges_of_a_large_graph_are_those_of_one_file(single: Path, split: Path) -> None:
    inputs = golden.read(single / "golden/golden.npz").inputs
    of_split = fp16_emulation.node_ranges(graph(split, Stage.FP16), inputs)
    assert of_split == fp16_emulation.node_ranges(graph(single, Stage.FP16), inputs)
    assert len(of_split) > 5
    halves = [weights.inlined(storage.load(graph(split, Stage.FP16))), storage.load(graph(split, Stage.FP16))]
    answers = [fp16_emulation.run_with_range(half, inputs) for half in halves]
    assert answers[0][1] == answers[1][1]
    singles = [weights.inlined(storage.load(graph(split, Stage.EXPORT))), storage.load(graph(split, Stage.EXPORT))]
    assert fp16_emulation.tensor_ranges(singles[0], inputs) == fp16_emulation.tensor_ranges(singles[1], inputs)


def test_a_mask_among_the_weights_of_a_large_graph_is_known(split: Path) -> None:
    half = storage.load(graph(split, Stage.FP16))
    (weight,) = (each for each in half.graph.initializer if list(each.dims) == [64, 64])
    emulated = fp16_emulation.emulate(half)
    assert weight.name + fp16_emulation.HALF_SUFFIX in {each.name for each in emulated.graph.initializer}
    weight.CopyFrom(numpy_helper.from_array(np.full((64, 64), -np.inf, np.float16), weight.name))
    types = {each.name: each.data_type for each in fp16_emulation.emulate(half).graph.initializer}
    assert types[weight.name] == TensorProto.FLOAT


def test_every_runtime_and_probe_reads_side_files(single: Path, split: Path) -> None:
    inputs = golden.read(single / "golden/golden.npz").inputs
    path = graph(split, Stage.EXPORT)
    with onnxruntime.start(path) as fast, reference.start(path) as slow:
        np.testing.assert_allclose(fast(**inputs)["logits"], slow(**inputs)["logits"], atol=1e-5)
    nodes = storage.load_structure(path).graph.node
    tensor = next(node.output[0] for node in nodes if node.op_type == "Relu")
    values = [
        intermediates.answers(graph(run, Stage.EXPORT), [tensor], onnxruntime.start, inputs) for run in (single, split)
    ]
    assert (values[0][tensor] == values[1][tensor]).all()
