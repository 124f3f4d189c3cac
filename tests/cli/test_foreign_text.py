"""Hostile text in runs, bundles, names, models, data and settings cannot control the terminal or forge a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deploytool.bundle.manifest import MANIFEST_FILE
from deploytool.results.artifact import Kind
from deploytool.spec import Stage
from tests.cli import hostile
from tests.cli.conftest import OutputOf

STATES = ("schema", "stage", "status", "verdict", "outcome", "kind", "origin", "baseline")  # with fixed values
MANIFEST = (  # fields whose invalid values are refused at once
    *("schema", "path", "paths", "sha256", "role", "recipe", "images", "dtype", "layout", "channels", "interpolation"),
    *("free", "classes", "precision", "io", "shape", "flavour"),
)


@pytest.fixture
def run(run_copy: Path, tmp_path: Path) -> Path:
    """A run in a folder with a hostile name, with hostile text in its report."""
    home = run_copy.rename(tmp_path / hostile.NAME)
    hostile.poison(home / "validate" / Kind.REPORT.value, STATES)
    return home


@pytest.fixture
def pack(packed: Path, tmp_path: Path) -> Path:
    """A bundle in a folder with a hostile name, with hostile text in the free fields of its manifest."""
    folder = Path(shutil.copytree(packed, tmp_path / hostile.NAME))
    hostile.poison(folder / MANIFEST_FILE, MANIFEST)
    return folder


@pytest.mark.parametrize(
    "command",
    [("show",), ("show", "-v"), ("show", "-q"), ("show", "--json"), ("faults", "--faults", "1"), ("blame",), ("pack",)],
)
def test_text_of_a_run(output_of: OutputOf, run: Path, command: tuple[str, ...]) -> None:
    output_of(command[0], run, *command[1:])


@pytest.mark.parametrize("stage", [Stage.LOAD, Stage.GOLDEN, Stage.FP16, Stage.VALIDATE])
def test_text_of_a_receipt(output_of: OutputOf, run_copy: Path, stage: str) -> None:
    hostile.poison(run_copy / stage / "receipt.json", ("kind", "files"))
    output_of("show", run_copy)
    output_of(
        "show", next(path for path in (run_copy / stage).iterdir() if path.suffix != ".json" or stage == "validate")
    )
    output_of("bench", run_copy, "--seconds", "0.1")
    output_of("pack", run_copy)


@pytest.mark.parametrize("command", ["show", "report", "diff", "blame", "pack"])
def test_invalid_values_in_a_report(output_of: OutputOf, run: Path, command: str) -> None:
    hostile.poison(run / "validate" / Kind.REPORT.value)
    output_of(command, run, *([run] if command == "diff" else []))


def test_text_of_a_report_in_its_page_and_junit(output_of: OutputOf, run: Path, tmp_path: Path) -> None:
    output_of("report", run, "--junit", tmp_path / "junit.xml")
    output_of("report", run, run, "--page", tmp_path / "all.html")
    output_of("diff", run, run, "--fail-if", "parity>2x")
    for page in (run / "report.html", tmp_path / "all.html", tmp_path / "junit.xml"):
        text = page.read_text(encoding="utf-8")
        assert hostile.FORGED in text
        assert not [*hostile.find_harm(text)]
        assert "$<b>" not in text


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("command", ["verify", "bench --seconds 0.1", "run PICTURE", "install --root root", "build"])
def test_text_of_a_bundle(output_of: OutputOf, pack: Path, command: str, device: bool) -> None:
    name, *more = command.replace("PICTURE", str(pack / "golden" / "case_0.png")).split(" ")
    words = [pack / "golden" / "case_0.png" if "case_0" in word else word for word in more]
    assert hostile.FORGED in output_of(name, pack, *words, device=device)
    output_of(name, pack, *words, "--json", device=device)


@pytest.mark.parametrize("device", [False, True])
def test_names_of_files(output_of: OutputOf, packed: Path, tmp_path: Path, device: bool) -> None:
    missing, folder = tmp_path / hostile.NAME, Path(shutil.copytree(packed, tmp_path / "bundle"))
    for command in ("verify", "build", "bench", "install --root root", "pull", "run x.png", f"run {packed} NOTHING"):
        words = [missing if word == "NOTHING" else word for word in command.split(" ")]
        output_of(*words[:1], *([] if "NOTHING" in command else [missing]), *words[1:], device=device)
    output_of("verify", packed, "--require-signature", missing, device=device)
    (folder / hostile.NAME).touch()
    assert hostile.FORGED in output_of("verify", folder, device=device)
    output_of("pull", folder, "--out", "out", device=device)
    output_of("pull", f"oci-archive:{missing}", device=device)
    if not device:
        for command in ("show", "report", "diff", "blame", "faults", "pack", "bench", "sign", "push"):
            more = {"diff": (missing,), "sign": ("--key", missing), "push": (f"oci-archive:{missing}",)}
            output_of(command, missing, *more.get(command, ()))
        output_of("push", folder, f"oci-archive:{missing}")


@pytest.mark.parametrize("arguments", [(hostile.NAME,), ("models", f"--{hostile.NAME}"), ("pull", hostile.NAME)])
@pytest.mark.parametrize("device", [False, True])
def test_arguments(output_of: OutputOf, arguments: tuple[str, ...], device: bool) -> None:
    output_of(*arguments, device=device)
    if not device:
        output_of(*arguments, "--json")


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
def test_names_and_messages_of_a_model(output_of: OutputOf, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL.format(text=hostile.NAME.replace("\udcff", "")), encoding="utf-8")
    options = ("--input", "3x16x16", "--quick", "--out", "run")
    for function in ("fails", "odd", hostile.NAME):
        output_of("export", f"net.py:{function}", *options)
    output_of("export", f"{hostile.NAME}.py:make", *options)
    output_of("show", "--cost", "net.py:make", "--input", "3x16x16")
    assert hostile.FORGED in output_of("export", "net.py:make", *options, "-v")
    for command in ("show", "report", "blame", "faults --faults 1", "bench --seconds 0.1"):
        output_of(command.split(" ")[0], "run", *command.split(" ")[1:])


def test_names_of_data_and_configuration_keys(output_of: OutputOf, tmp_path: Path) -> None:
    options = ("export", "mobilenet_v1_cifar", "--quick", "--out", "run")
    output_of(*options, "--data", hostile.NAME)
    (tmp_path / "data" / hostile.NAME).mkdir(parents=True)
    (tmp_path / "data" / hostile.NAME / f"{hostile.NAME}.png").write_text("no picture")
    output_of(*options, "--data", "data")
    for option in ("--weights", "--inputs", "--classes", "--cases"):
        output_of(*options, option, hostile.NAME)
        output_of(*options, option, tmp_path / "data" / hostile.NAME / f"{hostile.NAME}.png")
    name = hostile.TEXT.replace("\ud800", "")
    for table in (f"[{json.dumps(name)}]", f"[export]\n{json.dumps(name)} = 1", f"[export]\nto = {json.dumps(name)}"):
        (tmp_path / "deploytool.toml").write_text(f"{table}\n", encoding="utf-8")
        output_of("export", "mobilenet_v1_cifar")
