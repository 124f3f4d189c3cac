"""Tests of the torchscript stage."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from deploytool.backends import torchscript
from deploytool.data import golden
from tests.conftest import PYTHONPATH, ROOT


def test_the_file_contains_the_input_names_and_runs_at_any_batch_size(finished: Path) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    with torchscript.start(finished / "torchscript" / "model.pt") as session:
        outputs = session(**sample.inputs)
        single = session(input=sample.inputs["input"][:1])
    assert outputs.keys() == {"logits"}
    np.testing.assert_allclose(outputs["logits"], sample.outputs["logits"], atol=1e-5)
    np.testing.assert_allclose(single["logits"], outputs["logits"][:1], atol=1e-5)


def test_the_file_has_no_paths_of_the_machine(finished: Path) -> None:
    with zipfile.ZipFile(finished / "torchscript" / "model.pt") as archive:
        names = archive.namelist()
        assert any("/code/" in name and name.endswith(".py") for name in names)
        folders = (str(ROOT), str(finished), sys.prefix)
        assert not [name for name in names for folder in folders if folder.encode() in archive.read(name)]
        assert [name for name in names if name.endswith("/version")] == [f"{names[0].partition('/')[0]}/version"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # all of torch.jit is deprecated
@pytest.mark.parametrize("inline", [True, False])
def test_a_file_does_not_depend_on_where_the_model_is(inline: bool, tmp_path: Path) -> None:
    written = []
    for folder in ("here", "another/place"):
        (tmp_path / folder).mkdir(parents=True)
        code = tmp_path / folder / "net.py"
        code.write_text(NET)
        written.append(_traced(code, tmp_path / folder / "model.pt", inline=inline))
    assert written[0] == written[1]


def _traced(code: Path, out: Path, *, inline: bool) -> bytes:
    """The bytes of the file that a process of its own writes for the model in `code`."""
    arguments = [sys.executable, "-c", TRACE, str(code), str(out), "1000" if inline else "0"]
    subprocess.run(arguments, check=True, env={**os.environ, "PYTHONPATH": PYTHONPATH})
    assert torch.jit.load(out)(torch.ones(2, 3)).shape == (2, 3)  # type: ignore[no-untyped-call]  # torch.jit has no types
    assert sorted(path.name for path in out.parent.iterdir() if path.suffix == ".pt") == ["model.pt"]
    return out.read_bytes()


NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
    def forward(self, x):
        return torch.relu(self.layer(x))
"""
TRACE = """
import sys
from pathlib import Path
import torch
from deploytool.loading import user_code
from deploytool.rewrites.graph import weights
from deploytool.stages import torchscript
weights.MAX_INLINE_BYTES = int(sys.argv[3])
torch.manual_seed(0)
net = user_code.load(user_code.locate_file(Path(sys.argv[1]))).Net().eval()
torchscript._write(net, (torch.ones(2, 3),), Path(sys.argv[2]), {"inputs": "x", "outputs": "y"})
"""
