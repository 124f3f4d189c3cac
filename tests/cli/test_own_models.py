"""`export` of user models: files, modules and packages, what rebuilds them, and errors in one line."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from deploytool.pipeline.recipe import PIPELINE
from tests.conftest import ROOT, Command
from tests.user_model_export import WITHOUT_ENGINE

QUIET = ("--images", "4", "--seconds", "0.1")
NET = """
from torch import nn

def make(width=8, **other):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))

def failing(): raise RuntimeError("out of ideas")
def words(): return "no model"
class Naming(nn.Module):
    def forward(self, x): return {"logits": "x"}
"""


@pytest.mark.parametrize(
    ("arguments", "code", "problem", "remedy"),
    [
        (("net.py:make",), 2, "no inputs are declared for net.py:make", "--input 3x224x224"),
        (("nat.py:make", "--input", "3x32x32"), 2, "there is no file nat.py", "check the path"),
        (("net.py:nothing", "--input", "3x32x32"), 2, "net.py has no function 'nothing'", "net.py:make or net.py:"),
        (("nowhere.net:make", "--input", "3x32x32"), 2, "there is no module 'nowhere.net'", "path/to/file.py"),
        (("net.py:failing", "--input", "3x32x32"), 7, "net.py:failing raises RuntimeError: out of ideas", "--arg"),
        (("net.py:words", "--input", "3x32x32"), 7, "net.py:words returns a str", "torch.nn.Module"),
        (("net.py:Naming", "--input", "3x32x32"), 7, "net_Naming returns a dict", "return a tensor"),
        (("net.py:make", "--input", "1x32x32"), 7, "net_make does not run on input (2, 1, 32, 32): ", "--input"),
        (("net.py:make", "--input", "3x2x2"), 7, "net_make does not run on input (2, 3, 2, 2): ", "--input"),
        (("net.py:make", "--input", "3x32x32:int64"), 7, "net_make does not run on input (2, 3, 32, 32): ", "--input"),
        (
            ("net.py:make", "--input", "3x32x32", "--input", "b=4"),
            2,
            "forward has no parameter b",
            "name the inputs as forward does: input",
        ),
        (("net.py:failing", "--input", "3x32x32", "--arg", "w=3"), 7, "net.py:failing raises TypeError: ", "--arg"),
        (("net.py:make", "--input", "3x32x32", "--arg", "width=wide"), 7, "net.py:make raises TypeError: ", "--arg"),
        (
            ("net.py:make", "--input", "3x32x32", "--arg", "width"),
            2,
            "--arg width is not a name with a value",
            "NAME=VALUE",
        ),
        (("net.py:make", "--input", "3xHx32"), 2, "no size given for dynamic dimension H", "--size H=SMALLEST"),
        (("net.py:make", "--input", "3x32x32", "--size", "H=1:2:3"), 2, "no input has a dynamic dimension H", "none"),
        (("net.py:make", "--input", "3xHx32", "--size", "H=9:2:3"), 2, "--size H 9:2:3 is not a valid range", "1:8:32"),
        (("net.py:make", "--input", "a=3x8x8", "--input", "a=4"), 2, "two inputs are named a", "--input NAME="),
        (("net.py:make", "--input", "3x32x32:float8"), 2, "--input 3x32x32:float8 has an invalid type", "float32"),
        (("shufflenet_g3", "--input", "1x28x28"), 7, "shufflenet_g3 does not run on input (2, 1, 28, 28)", "--input"),
        (("shufflenet_g3", "--arg", "depth=7"), 7, "deploytool.models.shufflenet:shufflenet raises TypeE", "--arg"),
    ],
)
def test_an_error_is_reported_in_one_line(
    command_line: Command, tmp_path: Path, arguments: tuple[str, ...], code: int, problem: str, remedy: str
) -> None:
    (tmp_path / "net.py").write_text(NET)
    done = command_line("export", *arguments, *QUIET)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (code, 2), done.stderr
    assert lines[0].startswith(f"deploytool: {problem}")
    assert remedy in lines[1]
    assert not [path for path in tmp_path.rglob("artifacts/**/*") if path.is_file()]


def rebuilt(output: str) -> list[str]:
    """The stages whose artifact was not reused."""
    lines = [line.split() for line in output.splitlines()]
    return [words[0] for words in lines if words and words[0] in PIPELINE and words[1] != "kept"]


def test_a_file_imports_its_neighbours_and_an_edit_of_them_rebuilds(deploytool: Command, tmp_path: Path) -> None:
    files = {
        "net.py": "from blocks import body\nfrom models.heads import head\nfrom torch import nn\n"
        "def make(): return nn.Sequential(body(), head())\n",
        "blocks.py": "from torch import nn\ndef body(): return nn.Sequential(nn.Flatten(), nn.Linear(48, 8))\n",
        "models/__init__.py": "",
        "models/heads.py": "from torch import nn\ndef head(): return nn.Linear(8, 4)\n",
    }
    for name, text in files.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    arguments = ("export", "project/net.py:make", "--input", "3x4x4", *QUIET)
    first, again = deploytool(*arguments), deploytool(*arguments)
    assert (first.returncode, first.stderr) == (0, "")
    assert rebuilt(first.stdout) == WITHOUT_ENGINE
    assert rebuilt(again.stdout) == []
    for name, old, new in (("blocks.py", "Flatten()", "Flatten(), nn.ReLU()"), ("models/heads.py", "4)", "5)")):
        (tmp_path / "project" / name).write_text(files[name].replace(old, new))
        assert rebuilt(deploytool(*arguments).stdout) == WITHOUT_ENGINE


def test_a_module_in_a_package_is_rebuilt_after_an_edit_of_its_neighbour(deploytool: Command, tmp_path: Path) -> None:
    package = tmp_path / "site" / "mine"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sizes.py").write_text("width = 8\n")
    (package / "net.py").write_text(f"from .sizes import width\n{NET}")
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path / 'site'}"}
    arguments = ("export", "mine.net:make", "--input", "3x8x8", "--arg", "width=4", *QUIET)
    assert rebuilt(deploytool(*arguments, **environment).stdout) == WITHOUT_ENGINE
    (package / "sizes.py").write_text("width = 9\n")
    assert rebuilt(deploytool(*arguments, **environment).stdout) == WITHOUT_ENGINE


def test_another_package_adds_models(deploytool: Command, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "theirs").mkdir(parents=True)
    (site / "theirs" / "__init__.py").write_text(
        "from deploytool.spec import Model, Tensor\n"
        "IMAGE, LOGITS = Tensor('image', ('batch', 3, 16, 16)), Tensor('logits', ('batch', 4))\n"
        "MODELS = [Model('their_net', 'theirs.net:make', {'width': 4}, (IMAGE,), (LOGITS,))]\n"
    )
    (site / "theirs" / "net.py").write_text(NET)
    info = site / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[deploytool.models]\nzoo = theirs:MODELS\n")
    environment = {"PYTHONPATH": f"{ROOT}:{site}"}
    listed = deploytool("models", **environment)
    assert listed.returncode == 0, listed.stderr
    assert "their_net" in listed.stdout
    assert "their_net" not in deploytool("models").stdout
    done = deploytool("export", "their-net", *QUIET, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "their_net: largest error relative to the largest output, 4 golden cases" in done.stdout
    graph = onnx.load(tmp_path / "artifacts" / "their_net" / "fp16" / "model.onnx")
    assert [end.name for end in (*graph.graph.input, *graph.graph.output)] == ["image", "logits"]
