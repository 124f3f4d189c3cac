"""What both exporters refuse ends in one line that says what stands in the way; a remedy is the truth, and helps."""

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

OWN = ROOT / "tests" / "user_models" / "refused.py"
RECIPE = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT)
VECTOR = Tensor("vector", ("batch", 16))
NEVER = {  # what no exporter takes: the words that name it, and the mend
    "Autocast": (r"computes in bfloat16 by torch.autocast at refused.py:\d+", BlockerKind.AUTOCAST),
    "Brain": (r"computes in bfloat16 at refused.py:\d+", BlockerKind.NARROW),
    "Stored": (r"the weight shift is in bfloat16", BlockerKind.WEIGHTS),
    "Sparse": (r"uses sparse tensors at refused.py:\d+", BlockerKind.SPARSE),
    "Determined": (r"ONNX has no form of torch's \w*eig\w*", BlockerKind.OPERATOR),
    "Custom": (r"not torch's own, deploytool_test::doubled, at refused.py:\d+", BlockerKind.CUSTOM),
}
ONE = {"Spectrum": "dynamo", "Asking": "torchscript"}


def exporter_of(name: str, exporter: str, home: Path, *inputs: Tensor) -> str:
    """The exporter whose graph was kept; raises what the run raises."""
    job = Job(catalog.find(f"{OWN}:{name}", inputs or (VECTOR,), {}), Options(images=4, exporter=exporter))
    return str(list(runner.run(job, RECIPE, home))[-1].notes["exporter"])


@pytest.mark.parametrize("exporter", ["default", "torchscript", "dynamo"])
@pytest.mark.parametrize("name", NEVER)
def test_what_no_exporter_takes_is_said_with_its_cause(name: str, exporter: str, tmp_path: Path) -> None:
    words, cause = NEVER[name]
    with pytest.raises(StageFailed, match=words) as refusal:
        exporter_of(name, exporter, tmp_path / "run")
    assert "\n" not in f"{refusal.value}{refusal.value.remedy}"
    assert re.search(r"torchscript: .*dynamo: |dynamo: .*torchscript: ", str(refusal.value))
    assert refusal.value.remedy == cause.value
    assert "--exporter" not in refusal.value.remedy


@pytest.mark.parametrize("name", ONE)
def test_a_remedy_that_names_the_other_exporter_helps(name: str, tmp_path: Path) -> None:
    taken = ONE[name]
    other = "dynamo" if taken == "torchscript" else "torchscript"
    with pytest.raises(StageFailed, match=f"^the {other} exporter refuses the model: ") as refusal:
        exporter_of(name, other, tmp_path / "asked")
    assert refusal.value.remedy == f"leave --exporter out: the {taken} exporter takes it"
    assert exporter_of(name, "default", tmp_path / "followed") == taken
    assert exporter_of(name, taken, tmp_path / "named") == taken


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_inputs_that_are_not_named_by_forward_are_taken_by_both(exporter: str, tmp_path: Path) -> None:
    assert exporter_of("Starred", exporter, tmp_path / "one") == exporter
    two = (Tensor("input", ("batch", 16)), Tensor("input_1", ("batch", 16)))
    assert exporter_of("HalfStarred", exporter, tmp_path / "two", *two) == exporter
