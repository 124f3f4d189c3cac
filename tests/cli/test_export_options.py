"""Every option of an export has the same meaning as a keyword, on the command line and in a configuration file."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploytool import api
from deploytool.cli.app import app
from deploytool.errors import BadInput
from deploytool.pipeline.export_options import DECLARATIONS, ExportOptions
from deploytool.spec import Model, Range, Tensor

# by field: arguments of the command line, TOML of the table [export], and the value that both stand for
SAMPLES: dict[str, tuple[tuple[str, ...], str, Any]] = {
    "seed": (("--seed", "7"), "seed = 7", 7),
    "weights": (("--weights", "/w.pth"), 'weights = "/w.pth"', Path("/w.pth")),
    "trust_code": (("--trust-code",), "trust-code = true", True),
    "inputs": (
        ("--input", "image=3x8x8", "--input", "t=:int64:9"),
        'input = ["image=3x8x8", "t=:int64:9"]',
        (Tensor("image", ("batch", 3, 8, 8)), Tensor("t", ("batch",), "int64", 9)),
    ),
    "sizes": (("--size", "H=1:2:3"), 'size = "H=1:2:3"', {"H": Range(1, 2, 3)}),
    "outputs": (("--output", "mask,label"), 'output = ["mask", "label"]', "mask,label"),
    "arguments": (("--arg", "depth=3"), 'arg = "depth=3"', {"depth": 3}),
    "forward": (("--forward", "flag=false"), 'forward = "flag=false"', {"flag": False}),
    "preprocess": (("--preprocess", "none"), 'preprocess = "none"', "none"),
    "mean": (("--mean", "0.5,1"), "mean = [0.5, 1]", (0.5, 1.0)),
    "std": (("--std", "1/4"), 'std = "1/4"', (0.25,)),
    "scale": (("--scale", "1/4"), "scale = 0.25", 0.25),
    "channels": (("--channels", "BGR"), 'channels = "BGR"', "BGR"),
    "resize": (("--resize", "8x16"), 'resize = "8x16"', (8, 16)),
    "crop": (("--crop", "8"), "crop = 8", 8),
    "fit": (("--fit", "letterbox"), 'fit = "letterbox"', "letterbox"),
    "pad": (("--pad", "0"), "pad = 0", 0),
    "interpolation": (("--interpolation", "area"), 'interpolation = "area"', "area"),
    "layout": (("--layout", "NHWC"), 'layout = "NHWC"', "NHWC"),
    "to": (("--to", "onnx"), 'to = "onnx"', "onnx"),
    "exporter": (("--exporter", "dynamo"), 'exporter = "dynamo"', "dynamo"),
    "floor": (("--floor", "ort=1.20"), 'floor = ["ort=1.20"]', {"ort": "1.20"}),
    "opset": (("--opset", "20"), "opset = 20", 20),
    "rewrite": (("--rewrite", "grouped"), 'rewrite = "grouped"', "grouped"),
    "io": (("--io", "fp16"), 'io = "fp16"', "fp16"),
    "precision": (("--precision", "fp16,int8"), 'precision = ["fp16", "int8"]', "fp16,int8"),
    "calibration": (("--calibration", "/c"), 'calibration = "/c"', Path("/c")),
    "keep": (("--keep", "stem"), 'keep = ["stem"]', "stem"),
    "keep_fp32": (("--keep-fp32", "stem,head"), 'keep-fp32 = ["stem", "head"]', "stem,head"),
    "trt": (("--trt",), "trt = true", True),
    "targets": (("--target", "rtx40,orin"), 'target = ["rtx40", "orin"]', "rtx40,orin"),
    "batch": (("--batch", "1:2:4"), 'batch = "1:2:4"', Range(1, 2, 4)),
    "workspace": (("--workspace", "64"), "workspace = 64", 64),
    "builder_memory": (("--builder-memory", "512"), "builder-memory = 512", 512),
    "optimization_level": (("--optimization-level", "5"), "optimization-level = 5", 5),
    "strip_weights": (("--strip-weights",), "strip-weights = true", True),
    "quick": (("--quick",), "quick = true", True),
    "data": (("--data", "/photos"), 'data = "/photos"', Path("/photos")),
    "golden_inputs": (("--inputs", "/g.npz"), 'inputs = "/g.npz"', Path("/g.npz")),
    "images": (("--images", "5"), "images = 5", 5),
    "cases": (("--cases", "/c.npz"), 'cases = "/c.npz"', Path("/c.npz")),
    "runner": (("--runner", "reference"), 'runner = "reference"', "reference"),
    "faults": (("--faults", "2"), "faults = 2", 2),
    "seconds": (("--seconds", "0.5"), "seconds = 0.5", 0.5),
    "tolerance": (("--tolerance", "fp16=0.01"), 'tolerance = ["fp16=0.01"]', {"fp16": 0.01}),
    "min_speedup": (("--min-speedup", "2"), "min-speedup = 2", 2.0),
    "require": (("--require",), "require = true", True),
    "task": (("--task", "detect"), 'task = "detect"', "detect"),
    "labels": (("--labels", "/l.csv"), 'labels = "/l.csv"', Path("/l.csv")),
    "metric": (("--metric", "m.py:score"), 'metric = "m.py:score"', "m.py:score"),
    "max_drop": (("--max-drop", "0.5pt"), 'max-drop = "0.5pt"', "0.5pt"),
    "decode": (("--decode", "nms=0.5"), 'decode = "nms=0.5"', {"nms": 0.5}),
    "classes": (("--classes", "/names"), 'classes = "/names"', Path("/names")),
    "pack": (("--pack",), "pack = true", True),
    "sequence": (("--sequence", "3"), "sequence = 3", 3),
    "out": (("--out", "/run"), 'out = "/run"', Path("/run")),
    "junit": (("--junit", "/j.xml"), 'junit = "/j.xml"', Path("/j.xml")),
}


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[ExportOptions]:
    """The options of every export that is started; none of them runs."""
    started: list[ExportOptions] = []

    def run_export(model: str | Model, options: ExportOptions, *_: Any) -> api.Run:
        started.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "run_export", run_export)
    monkeypatch.chdir(tmp_path)
    return started


def test_every_option_has_a_sample() -> None:
    assert set(SAMPLES) == set(DECLARATIONS)
    defaults = ExportOptions()
    assert not [name for name, (_, _, value) in SAMPLES.items() if value == getattr(defaults, name)]


@pytest.mark.parametrize("name", SAMPLES)
def test_an_option_has_one_meaning(name: str, exported: list[ExportOptions], tmp_path: Path) -> None:
    arguments, toml, value = SAMPLES[name]
    file = tmp_path / "options.toml"
    file.write_text(f"[export]\n{toml}\n")
    CliRunner().invoke(app, ["export", "mixnet_s", *arguments])
    CliRunner().invoke(app, ["--config", str(file), "export", "mixnet_s"])
    with pytest.raises(KeyboardInterrupt):
        api.export("mixnet_s", **{name: value})
    assert exported == [ExportOptions(**{name: value})] * 3


@pytest.mark.parametrize("name", ["outputs", "keep_fp32", "targets"])
def test_names_in_several_options_are_all_taken(name: str, exported: list[ExportOptions], tmp_path: Path) -> None:
    (flag, _), toml, _ = SAMPLES[name]
    CliRunner().invoke(app, ["export", "mixnet_s", flag, "a,b", flag, "c"])
    file = tmp_path / "options.toml"
    file.write_text(f'[export]\n{toml.partition("=")[0]} = ["a", "b", "c"]\n')
    CliRunner().invoke(app, ["--config", str(file), "export", "mixnet_s"])
    assert exported == [ExportOptions(**{name: "a,b,c"})] * 2  # type: ignore[arg-type]


def test_a_size_that_gets_two_ranges_has_two_profiles(exported: list[ExportOptions]) -> None:
    CliRunner().invoke(app, ["export", "mixnet_s", "--size", "H=1:2:3", "--size", "W=8", "--size", "H=4"])
    assert exported[-1].sizes == {"H": (Range(1, 2, 3), Range(4, 4, 4)), "W": Range(8, 8, 8)}


@pytest.mark.parametrize(
    "pairs", [("--forward", "f=3", "f=4"), ("--arg", "a=1", "a=1"), ("--tolerance", "fp16=1", "fp16=0.1")]
)
def test_a_name_that_gets_two_values_is_refused(pairs: tuple[str, str, str], exported: list[ExportOptions]) -> None:
    option, one, two = pairs
    result = CliRunner().invoke(app, ["export", "mixnet_s", option, one, option, two])
    assert isinstance(result.exception, BadInput)
    assert not exported


@pytest.mark.parametrize("arguments", [("--size", "H"), ("--size", "=3"), ("--arg", "a"), ("--tolerance", "fp16")])
def test_a_pair_without_a_value_is_refused(arguments: tuple[str, str], exported: list[ExportOptions]) -> None:
    assert isinstance(CliRunner().invoke(app, ["export", "mixnet_s", *arguments]).exception, BadInput)
    assert not exported


PATHS = [name for name, (_, _, value) in SAMPLES.items() if isinstance(value, Path)]


@pytest.mark.parametrize("name", PATHS)
def test_an_empty_path_is_not_the_working_folder(name: str, exported: list[ExportOptions], tmp_path: Path) -> None:
    (flag, _), toml, _ = SAMPLES[name]
    file = tmp_path / "options.toml"
    file.write_text(f'[export]\n{toml.partition("=")[0]} = ""\n')
    for arguments in ([], ["--config", str(file)]):
        given = ["export", "mixnet_s"] if arguments else ["export", "mixnet_s", flag, ""]
        assert isinstance(CliRunner().invoke(app, [*arguments, *given]).exception, BadInput)
    assert not exported


def test_without_options_the_defaults_are_those_of_the_object(exported: list[ExportOptions]) -> None:
    CliRunner().invoke(app, ["export", "mixnet_s"])
    assert exported == [ExportOptions()]


def test_the_call_shows_its_keywords() -> None:
    model, *keywords = inspect.signature(api.export).parameters.values()
    assert model.name == "model"
    assert [keyword.name for keyword in keywords] == [*DECLARATIONS]
    assert {keyword.kind for keyword in keywords} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("keyword", "remedy"),
    [
        ("sede", "did you mean seed?"),
        ("size", "did you mean sizes?"),
        ("input", "did you mean inputs?"),
        ("trust-code", "did you mean trust_code?"),
        ("\x1b[31m", "help(deploytool.export) lists the options"),
    ],
)
def test_an_unknown_keyword_is_a_bad_input(keyword: str, remedy: str, exported: list[ExportOptions]) -> None:
    call: Any = api.export
    with pytest.raises(BadInput, match="export has no option '") as caught:
        call("mixnet_s", **{keyword: 1})
    assert str(caught.value).isprintable()
    assert caught.value.remedy == remedy
    with pytest.raises(BadInput, match="one has no name"):
        call("mixnet_s", 1)
    assert not exported
