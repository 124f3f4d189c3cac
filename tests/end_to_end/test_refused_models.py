"""Tests of models that one or both exporters reject: the error names the cause, and the remedy works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploytool.errors import StageFailed
from deploytool.loading import catalog
from deploytool.model_checks.export_blockers import BlockerKind
from deploytool.pipeline import runner
from deploytool.spec import Job, Options, Stage, Tensor
from tests.conftest import ROOT

OWN = ROOT / "tests" / "user_models" / "not_exportable.py"
RECIPE = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT)
VECTOR = Tensor("vector", ("batch", 16))
REJECTED_BY_BOTH = {  # a pattern of the problem, and the kind of blocker
    "Autocast": (r"computes in bfloat16 under torch.autocast at not_exportable.py:\d+", BlockerKind.AUTOCAST),
    "Bfloat16": (r"computes in bfloat16 at not_exportable.py:\d+", BlockerKind.NARROW),
    "Bfloat16Weight": (r"the weight shift is in bfloat16", BlockerKind.WEIGHTS),
    "Sparse": (r"uses sparse tensors at not_exportable.py:\d+", BlockerKind.SPARSE),
    "Eigenvalues": (r"the operator \w*eig\w*", BlockerKind.OPERATOR),
    "Custom": (r"the custom operator deploytool_test::doubled at not_exportable.py:\d+", BlockerKind.CUSTOM),
}
ACCEPTED_BY_ONE = {"Spectrum": "dynamo", "Guarded": "torchscript"}


def exporter_of(name: str, exporter: str, home: Path, *inputs: Tensor) -> str:
    """The exporter whose graph was kept; errors of the run propagate."""
    job = Job(catalog.find(f"{OWN}:{name}", inputs or (VECTOR,), {}), Options(images=4, exporter=exporter))
    return str(list(runner.run(job, RECIPE, home))[-1].notes["exporter"])


@pytest.mark.parametrize("exporter", ["auto", "torchscript", "dynamo"])
@pytest.mark.parametrize("name", REJECTED_BY_BOTH)
def test_the_error_contains_the_cause_if_both_exporters_reject_a_model(
    name: str, exporter: str, tmp_path: Path
) -> None:
    pattern, cause = REJECTED_BY_BOTH[name]
    with pytest.raises(StageFailed, match=pattern) as caught:
        exporter_of(name, exporter, tmp_path / "run")
    assert "\n" not in f"{caught.value}{caught.value.remedy}"
    assert re.search(r"torchscript: .*dynamo: |dynamo: .*torchscript: ", str(caught.value))
    assert caught.value.remedy == cause.value
    assert "--exporter" not in caught.value.remedy


@pytest.mark.parametrize("name", ACCEPTED_BY_ONE)
def test_the_other_exporter_is_the_remedy_if_it_accepts_the_model(name: str, tmp_path: Path) -> None:
    accepting = ACCEPTED_BY_ONE[name]
    rejecting = "dynamo" if accepting == "torchscript" else "torchscript"
    with pytest.raises(StageFailed, match=f"^the {rejecting} exporter ") as caught:
        exporter_of(name, rejecting, tmp_path / "requested")
    assert "--exporter" in caught.value.remedy
    assert f"the {accepting} exporter" in caught.value.remedy
    assert exporter_of(name, "auto", tmp_path / "auto") == accepting
    assert exporter_of(name, accepting, tmp_path / "accepting") == accepting


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_both_exporters_accept_var_positional_inputs(exporter: str, tmp_path: Path) -> None:
    assert exporter_of("VarPositional", exporter, tmp_path / "one") == exporter
    two = (Tensor("input", ("batch", 16)), Tensor("input_1", ("batch", 16)))
    assert exporter_of("PositionalAndVarPositional", exporter, tmp_path / "two", *two) == exporter


def test_an_output_without_elements_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"the output \w+ has no elements \(4×0\)") as caught:
        exporter_of("Empty", "auto", tmp_path / "run")
    assert "--output" in caught.value.remedy
