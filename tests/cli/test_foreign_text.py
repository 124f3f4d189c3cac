"""No text from elsewhere colours, moves, turns around or forges a line of what any command says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deploytool.bundle.manifest import MANIFEST_FILE
from deploytool.results.artifact import Kind
from deploytool.spec import Stage
from tests.cli import hostile
from tests.cli.conftest import Said

STATES = ("schema", "stage", "status", "verdict", "outcome", "kind", "origin")  # words that are checked when read
MANIFEST = (  # what a bundle is refused for at once where it makes no sense
    *("schema", "path", "paths", "sha256", "role", "recipe", "images", "dtype", "layout", "channels", "interpolation"),
    *("free", "classes", "precision", "io", "shape", "flavour"),
)


@pytest.fixture
def run(run_copy: Path, tmp_path: Path) -> Path:
    """A run in a hostile folder, with a report of which every text is hostile."""
    home = run_copy.rename(tmp_path / hostile.NAME)
    hostile.poison(home / "validate" / Kind.REPORT.value, STATES)
    return home


@pytest.fixture
def pack(packed: Path, tmp_path: Path) -> Path:
    """A bundle in a hostile folder, with a manifest of which every text is hostile that need not be sound."""
    folder = Path(shutil.copytree(packed, tmp_path / hostile.NAME))
    hostile.poison(folder / MANIFEST_FILE, MANIFEST)
    return folder


@pytest.mark.parametrize(
    "command",
    [("show",), ("show", "-v"), ("show", "-q"), ("show", "--json"), ("faults", "--faults", "1"), ("blame",), ("pack",)],
)
def test_of_a_run(said: Said, run: Path, command: tuple[str, ...]) -> None:
    said(command[0], run, *command[1:])


@pytest.mark.parametrize("room", [Stage.LOAD, Stage.GOLDEN, Stage.FP16, Stage.VALIDATE])
def test_of_a_receipt(said: Said, run_copy: Path, room: str) -> None:
    hostile.poison(run_copy / room / "receipt.json", ("kind", "files"))
    said("show", run_copy)
    said("show", next(path for path in (run_copy / room).iterdir() if path.suffix != ".json" or room == "validate"))
    said("bench", run_copy, "--seconds", "0.1")
    said("pack", run_copy)


@pytest.mark.parametrize("command", ["show", "report", "diff", "blame", "pack"])
def test_of_a_report_whose_checked_words_are_others(said: Said, run: Path, command: str) -> None:
    hostile.poison(run / "validate" / Kind.REPORT.value)
    said(command, run, *([run] if command == "diff" else []))


def test_of_a_report_and_in_its_page_and_junit(said: Said, run: Path, tmp_path: Path) -> None:
    said("report", run, "--junit", tmp_path / "junit.xml")
    said("report", run, run, "--page", tmp_path / "all.html")
    said("diff", run, run, "--fail-if", "parity>2x")
    for page in (run / "report.html", tmp_path / "all.html", tmp_path / "junit.xml"):
        written = page.read_text(encoding="utf-8")
        assert hostile.FORGED in written
        assert not [*hostile.harm(written)]
        assert "$<b>" not in written


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("command", ["verify", "bench --seconds 0.1", "run PICTURE", "install --root root", "build"])
def test_of_a_bundle(said: Said, pack: Path, command: str, device: bool) -> None:
    name, *more = command.replace("PICTURE", str(pack / "golden" / "case_0.png")).split(" ")
    words = [pack / "golden" / "case_0.png" if "case_0" in word else word for word in more]
    assert hostile.FORGED in said(name, pack, *words, device=device)
    said(name, pack, *words, "--json", device=device)


@pytest.mark.parametrize("device", [False, True])
def test_of_names_of_files(said: Said, packed: Path, tmp_path: Path, device: bool) -> None:
    nothing, folder = tmp_path / hostile.NAME, Path(shutil.copytree(packed, tmp_path / "bundle"))
    for command in ("verify", "build", "bench", "install --root root", "pull", "run x.png", f"run {packed} NOTHING"):
        words = [nothing if word == "NOTHING" else word for word in command.split(" ")]
        said(*words[:1], *([] if "NOTHING" in command else [nothing]), *words[1:], device=device)
    said("verify", packed, "--require-signature", nothing, device=device)
    (folder / hostile.NAME).touch()
    assert hostile.FORGED in said("verify", folder, device=device)
    said("pull", folder, "--out", "out", device=device)
    said("pull", f"oci-archive:{nothing}", device=device)
    if not device:
        for command in ("show", "report", "diff", "blame", "faults", "pack", "bench", "sign", "push"):
            more = {"diff": (nothing,), "sign": ("--key", nothing), "push": (f"oci-archive:{nothing}",)}
            said(command, nothing, *more.get(command, ()))
        said("push", folder, f"oci-archive:{nothing}")


@pytest.mark.parametrize("wrong", [(hostile.NAME,), ("models", f"--{hostile.NAME}"), ("pull", hostile.NAME)])
@pytest.mark.parametrize("device", [False, True])
def test_of_arguments(said: Said, wrong: tuple[str, ...], device: bool) -> None:
    said(*wrong, device=device)
    if not device:
        said(*wrong, "--json")


MODEL = """
import warnings
import torch
from torch import nn
TEXT = {text!r}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module(TEXT.replace(".", ""), nn.Conv2d(3, 4, 3))
    def forward(self, x):
        warnings.warn(TEXT)
        return {{TEXT: next(self.children())(x).mean((2, 3)), TEXT + "2": x.mean((2, 3))}}
Net.__name__ = Net.__qualname__ = TEXT
def make():
    return Net().eval()
def fails():
    raise ValueError(TEXT)
def odd():
    return type(TEXT, (), {{}})()
"""


@pytest.mark.filterwarnings("ignore")
def test_of_a_model(said: Said, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL.format(text=hostile.NAME.replace("\udcff", "")), encoding="utf-8")
    asked = ("--input", "3x16x16", "--quick", "--out", "run")
    for made in ("fails", "odd", hostile.NAME):
        said("export", f"net.py:{made}", *asked)
    said("export", f"{hostile.NAME}.py:make", *asked)
    said("show", "--cost", "net.py:make", "--input", "3x16x16")
    assert hostile.FORGED in said("export", "net.py:make", *asked, "-v")
    for command in ("show", "report", "blame", "prove --faults 1", "bench --seconds 0.1"):
        said(command.split(" ")[0], "run", *command.split(" ")[1:])


def test_of_data_and_settings(said: Said, tmp_path: Path) -> None:
    asked = ("export", "mixnet_s", "--quick", "--out", "run")
    said(*asked, "--data", hostile.NAME)
    (tmp_path / "data" / hostile.NAME).mkdir(parents=True)
    (tmp_path / "data" / hostile.NAME / f"{hostile.NAME}.png").write_text("no picture")
    said(*asked, "--data", "data")
    for option in ("--weights", "--inputs", "--classes", "--cases"):
        said(*asked, option, hostile.NAME)
        said(*asked, option, tmp_path / "data" / hostile.NAME / f"{hostile.NAME}.png")
    name = hostile.TEXT.replace("\ud800", "")
    for table in (f"[{json.dumps(name)}]", f"[export]\n{json.dumps(name)} = 1", f"[export]\nto = {json.dumps(name)}"):
        (tmp_path / "deploytool.toml").write_text(f"{table}\n", encoding="utf-8")
        said("export", "mixnet_s")
