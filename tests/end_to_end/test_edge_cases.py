"""Tests that edge inputs (silent, loud, constant, padded) reveal baked-in branches, unless the model fails there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from deploytool.cli import params
from deploytool.data import golden
from deploytool.loading import catalog
from deploytool.pipeline import runner
from deploytool.results import report, verdict
from deploytool.results.report import Report
from deploytool.spec import Job
from tests.conftest import QUICK
from tests.user_model_export import OWN, WITHOUT_ENGINE, failures

EDGE_COUNT = 8  # of a floating-point input


def export_report(reference: str, inputs: str, home: Path, images: int = EDGE_COUNT) -> Report:
    job = Job(
        catalog.find(f"{OWN / reference.partition(':')[0]}.py:{reference.partition(':')[2]}", params.tensors([inputs])),
        dataclasses.replace(QUICK, images=images, seconds=0.0),
    )
    return report.read(list(runner.run(job, WITHOUT_ENGINE, home))[-1].path)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("name", "edges"),
    [
        ("IfLoud", {"loud"}),
        ("IfSilent", {"silence"}),
        ("IfQuiet", {"quiet"}),
        ("IfFlat", {"a constant"}),
        ("IfPadded", {"a padded tail"}),
        ("Never", set()),
    ],
)
def test_a_baked_in_branch_fails_at_the_edge_that_takes_it(name: str, edges: set[str], tmp_path: Path) -> None:
    failed = failures(export_report(f"branching:{name}", "sound=16", tmp_path / "run"))
    expected = {f"FP64 at {edge}" for edge in edges}
    assert all(failed.get(stage, set()) == expected for stage in ("export", "simplify", "rewrite"))
    assert failed.get("fp16", set()) == expected - {"FP64 at loud"}  # outside of the range FP16 must represent


def test_an_edge_at_which_the_model_fails_is_left_out_with_a_remark(tmp_path: Path) -> None:
    written = export_report("branching:Unsound", "sound=16", tmp_path / "run")
    assert verdict.failed_lines(written) == ()
    remarks = [line for line in written.remarks if "edge case silence" in line or "edge case loud" in line]
    assert len(remarks) == 2
    assert any("edge case silence " in line and "NaN" in line for line in remarks)
    assert any("edge case loud " in line and "too loud" in line for line in remarks)
    sample = golden.read(tmp_path / "run" / "golden" / "golden.npz")
    assert [edge.name for edge in sample.edges] == [
        *("a constant", "quiet", "one sample", "a padded tail", "a ramp", "negative")
    ]
    assert all(np.isfinite(output).all() for edge in sample.edges for output in edge.reference.values())


def test_few_golden_cases_have_few_edges(tmp_path: Path) -> None:
    export_report("branching:Never", "sound=16", tmp_path / "run", images=3)
    sample = golden.read(tmp_path / "run" / "golden" / "golden.npz")
    assert [edge.name for edge in sample.edges] == ["silence", "loud", "a constant"]
    for edge in sample.edges:
        ((name, output),) = edge.outputs.items()
        np.testing.assert_allclose(output, edge.reference[name], rtol=1e-4)
