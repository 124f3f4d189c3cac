"""Tests of the simplify stage, with the real onnxsim and with a replacement that has planted faults."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from deploytool.data import golden
from deploytool.data.golden import Floor, Golden, Noise
from deploytool.errors import BadInput
from deploytool.host import process
from deploytool.loading.stage_inputs import StageInputs
from deploytool.pipeline import runner
from deploytool.pipeline.recipe import PIPELINE
from deploytool.results import report, verdict
from deploytool.results.artifact import Artifact, Kind, Notes
from deploytool.spec import Job, Model, Preprocessing, Stage, Status, Tensor
from deploytool.stages import simplify
from tests.conftest import QUICK, ROOT, TINY, artifacts

Plant = Callable[[Mapping[str, str]], None]


def remarks(notes: Notes) -> list[str]:
    lines = notes["remarks"]
    assert isinstance(lines, list)
    return lines


def make(finished: Path, out: Path) -> Notes:
    return simplify.make(Job(TINY, QUICK), out, before(finished))


def before(run: Path) -> StageInputs:
    """The inputs of the stage, without later artifacts."""
    return StageInputs(
        tuple(artifact for artifact in artifacts(run).artifacts if artifact.made_by in ("golden", "export"))
    )


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Replaces onnxsim by a simplifier with planted faults; maps passes to faults."""

    def replace_onnxsim(faults: Mapping[str, str]) -> None:
        folder = tmp_path / "onnxsim"
        folder.mkdir()
        shutil.copy(Path(__file__).with_name("planted_onnxsim.py"), folder / "onnxsim.py")
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("FAULTS", json.dumps(faults))

    return replace_onnxsim


def test_the_simplified_graph_is_smaller_and_valid(finished: Path) -> None:
    before, after = (onnx.load(finished / stage / "model.onnx") for stage in ("export", "simplify"))
    onnx.checker.check_model(after, full_check=True)
    assert len(after.graph.node) < len(before.graph.node)
    assert after.graph.input[0].type == before.graph.input[0].type
    assert after.graph.output[0].type == before.graph.output[0].type
    assert not after.metadata_props


def test_a_correct_result_is_kept_without_remarks(finished: Path) -> None:
    (notes,) = (artifact.notes for artifact in artifacts(finished).chain(Kind.GRAPH) if artifact.made_by == "simplify")
    assert (notes["left_out"], notes["remarks"]) == ([], [])


ERROR = r"error \d\.\de-\d\d"


@pytest.mark.parametrize(
    ("faults", "left_out", "remark"),
    [
        (
            {"fuse_two": "change"},
            ["fuse_two"],
            rf"onnxsim changed the outputs of the graph \({ERROR} against the exported graph\); "
            "continued without pass fuse_two",
        ),
        (
            {"fuse_one": "change", "fuse_five": "change"},
            ["fuse_one", "fuse_five"],
            r"onnxsim changed .*; continued without pass fuse_one and pass fuse_five",
        ),
        (
            {"fuse_five": "fix_the_batch"},
            ["fuse_five"],
            "onnxsim wrote an invalid graph: axis 0 of input became fixed; continued without pass fuse_five",
        ),
        ({"fuse_one": "crash"}, ["fuse_one"], "onnxsim was killed by SIGABRT.*; continued without pass fuse_one"),
        (
            {"fuse_four": "write_invalid_file"},
            ["fuse_four"],
            "onnxsim wrote an invalid graph: .* without pass fuse_four",
        ),
        (
            {"constant-folding": "exhaust_memory"},
            ["constant-folding"],
            "onnxsim ended with status 1: MemoryError; continued without constant-folding",
        ),
        ({"itself": "change"}, ["onnxsim"], "onnxsim changed the outputs .*; continued without onnxsim"),
        ({"itself": "write_nothing"}, ["onnxsim"], "onnxsim wrote an invalid graph: .*; continued without onnxsim"),
        ({"itself": "remove_node"}, ["onnxsim"], "onnxsim wrote an invalid graph: .*; continued without onnxsim"),
        ({"itself": "rename_the_output"}, ["onnxsim"], "instead of logits; continued without onnx"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_the_failing_passes_are_left_out_with_a_remark(
    faults: Mapping[str, str], left_out: list[str], remark: str, finished: Path, tmp_path: Path, plant: Plant
) -> None:
    plant(faults)
    notes = make(finished, tmp_path / "model.onnx")
    assert notes["left_out"] == left_out
    (line,) = remarks(notes)
    assert re.search(remark, line), line
    assert "\n" not in line
    assert str(tmp_path) not in line
    before, after = (onnx.load(path) for path in (finished / "export" / "model.onnx", tmp_path / "model.onnx"))
    assert after == before  # the replacement of onnxsim simplifies nothing
    assert notes["max_error"] == 0.0


def test_a_pass_that_hangs_is_left_out(
    finished: Path, tmp_path: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, run_limited = list[float](), process.run_limited

    def run_on_a_busy_machine(
        command: Sequence[str], *, seconds: float, task: tuple[str, str, list[str]] | None = None, **rest: Any
    ) -> str:
        """Only the runs that hang have the short limit: without it, a busy machine may need seconds for the others."""
        hangs = task is not None and "fuse_five" not in task[2]
        limits.append(seconds)
        return run_limited(command, seconds=seconds if hangs else 300.0, task=task, **rest)

    plant({"fuse_five": "hang"})
    for limit, value in {"_SECONDS": 3.0, "_MIN_SECONDS": 1.0, "_TIME_FACTOR": 1.5}.items():
        monkeypatch.setattr(simplify, limit, value)
    monkeypatch.setattr(simplify, "run_limited", run_on_a_busy_machine)
    notes = make(finished, tmp_path / "model.onnx")
    assert remarks(notes) == ["onnxsim was stopped after 3 s; continued without pass fuse_five"]
    assert limits[:3] == [3.0, 3.0, 3.0]  # all passes on, the list of the passes, all off
    assert len(limits) > 3
    assert set(limits[3:]) == {limits[3]}
    assert limits[3] >= 1.0


def test_a_search_that_takes_too_long_ends_without_onnxsim(
    finished: Path, tmp_path: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant({"itself": "hang"})
    for limit in ("_SECONDS", "_SEARCH_SECONDS"):
        monkeypatch.setattr(simplify, limit, 2.0)
    notes = make(finished, tmp_path / "model.onnx")
    assert remarks(notes) == ["onnxsim was stopped after 2 s; continued without onnxsim"]
    assert (tmp_path / "model.onnx").read_bytes() == (finished / "export" / "model.onnx").read_bytes()


def test_an_invalid_input_graph_is_an_error(run_copy: Path, tmp_path: Path) -> None:
    (run_copy / "export" / "model.onnx").write_bytes(b"invalid")
    with pytest.raises(BadInput, match=r"export/model\.onnx is not an ONNX graph"):
        make(run_copy, tmp_path / "model.onnx")


@pytest.mark.integration
def test_a_run_without_a_failing_pass_is_measured_and_reported(tmp_path: Path, plant: Plant) -> None:
    plant({"fuse_three": "change"})
    recipe = [stage for stage in PIPELINE if stage != Stage.BUILD]
    written = report.read(list(runner.run(Job(TINY, QUICK), recipe, tmp_path / "run"))[-1].path)
    assert verdict.failed_lines(written) == ()
    (comparison,) = (comparison for comparison in written.comparisons if comparison.stage == "simplify")
    assert (comparison.status, comparison.checks[0].parity.max_error) == (Status.MEASURED, 0.0)
    (line,) = (line for line in written.remarks if line.startswith("simplify"))
    assert re.fullmatch(rf"simplify: onnxsim changed .*{ERROR}.*; continued without pass fuse_three", line)


def test_the_worker_does_not_import_torch(finished: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from deploytool.rewrites import simplify_worker; simplify_worker.main(); "
        "print([name for name in sys.modules if name.startswith('torch.')], 'onnx' in sys.modules)"
    )
    files = [str(finished / "export" / "model.onnx"), str(tmp_path / "model.onnx")]
    task = json.dumps([*files, []])
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=task, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] True"


NOISE = Noise(Floor(1e-7, 1e-7), Floor(1e-3, 1e-3))
EXPONENTIAL = """
<ir_version: 9, opset_import: ["" : 18]>
answer (float[batch, 4] input) => (int64[batch, 1] logits) <float large = {1000.0}>
{
    scaled = Mul (input, large)
    grown = Exp (scaled)
    logits = ArgMax <axis = 1> (grown)
}
"""


def test_a_faulty_pass_of_the_real_onnxsim_is_found(finished: Path, tmp_path: Path) -> None:
    """If two exponentials overflow, ArgMax takes the first; onnxsim removes the monotone Exp: it takes the larger."""
    inputs = {"input": np.array([[0.25, 0.5, -1, 0], [-1, 0.5, 0.25, 1], [1, 2, 3, 4], [-1, -2, 0.1, 0.2]], np.float32)}
    model = Model("exponential", "none", {}, (Tensor("input", ("batch", 4)),), (Tensor("logits", ("batch", 1)),))
    files = {Kind.GOLDEN: tmp_path / "golden.npz", Kind.GRAPH: tmp_path / "before.onnx"}
    onnx.save(onnx.parser.parse_model(EXPONENTIAL), files[Kind.GRAPH])
    pixels, labels = np.zeros((4, 0, 0, 3), np.uint8), np.full(4, -1)
    golden.write(files[Kind.GOLDEN], Golden(pixels, inputs, {}, {}, labels, Preprocessing(), NOISE))
    stage_inputs = [
        Artifact(kind, path, "digest", "", Stage.EXPORT, {}, 0.0, fresh=True) for kind, path in files.items()
    ]
    notes = simplify.make(Job(model, QUICK), tmp_path / "model.onnx", StageInputs(tuple(stage_inputs)))
    (line,) = remarks(notes)
    assert line.startswith("onnxsim changed the outputs of the graph (error ")
    assert line.endswith("); continued without pass eliminate_nop_monotone_argmax")
    assert [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node] == ["Mul", "Exp", "ArgMax"]
