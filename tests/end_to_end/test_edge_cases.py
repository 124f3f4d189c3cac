"""What only silence, loudness, a constant or a padded tail shows is seen, and what nobody can answer is not asked."""

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

EVERY = 8  # edges of an input of numbers


def gone(reference: str, inputs: str, home: Path, images: int = EVERY) -> Report:
    job = Job(
        catalog.find(f"{OWN / reference.partition(':')[0]}.py:{reference.partition(':')[2]}", params.tensors([inputs])),
        dataclasses.replace(QUICK, images=images, seconds=0.0),
    )
    return report.read(list(runner.run(job, WITHOUT_ENGINE, home))[-1].path)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("IfLoud", {"loud"}),
        ("IfSilent", {"silence"}),
        ("IfQuiet", {"quiet"}),
        ("IfFlat", {"a constant"}),
        ("IfPadded", {"a padded tail"}),
        ("Never", set()),
    ],
)
def test_a_branch_that_was_fixed_at_export_shows_at_the_edge_that_takes_it(
    name: str, where: set[str], tmp_path: Path
) -> None:
    failed = failures(gone(f"branching:{name}", "sound=16", tmp_path / "run"))
    expected = {f"FP64 at {edge}" for edge in where}
    assert all(failed.get(stage, set()) == expected for stage in ("export", "simplify", "rewrite"))
    assert failed.get("fp16", set()) == expected - {"FP64 at loud"}  # nobody is that loud: FP16 need not hold there


def test_an_edge_that_the_model_itself_cannot_answer_is_left_out_with_a_remark(tmp_path: Path) -> None:
    written = gone("branching:Unsound", "sound=16", tmp_path / "run")
    assert verdict.failed_lines(written) == ()
    said = [line for line in written.remarks if line.startswith("record: not tried at ")]
    assert any("at silence: the model itself answers with NaN or infinite values" in line for line in said)
    assert any("at loud: " in line and "too loud" in line for line in said)
    kept = golden.read(tmp_path / "run" / "golden" / "golden.npz")
    assert [edge.name for edge in kept.edges] == [
        *("a constant", "quiet", "one sample", "a padded tail", "a ramp", "negative")
    ]
    assert all(np.isfinite(answer).all() for edge in kept.edges for answer in edge.reference.values())


def test_few_golden_cases_make_few_edges(tmp_path: Path) -> None:
    gone("branching:Never", "sound=16", tmp_path / "run", images=3)
    kept = golden.read(tmp_path / "run" / "golden" / "golden.npz")
    assert [edge.name for edge in kept.edges] == ["silence", "loud", "a constant"]
    for edge in kept.edges:
        ((name, answer),) = edge.outputs.items()
        np.testing.assert_allclose(answer, edge.reference[name], rtol=1e-4)
