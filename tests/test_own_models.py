"""Models that are not ours: ten architectures down the whole road, and what is refused, with which line."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from deploytool import catalog, pipeline, report, targets, verdict
from deploytool.cli import asked
from deploytool.errors import BadInput, StageFailed
from deploytool.report import Report
from deploytool.spec import Job, Options, Range
from deploytool.stages import halve
from tests.conftest import QUICK, ROOT, Command

OWN = Path(__file__).parent / "own"
SIZES = {"H": Range(32, 48, 64), "W": Range(32, 48, 64)}
ARCHITECTURES = {
    "residual:make": ["3x32x32"],
    "inception:Inception": ["3x32x32"],
    "dense:DenseNet": ["3x32x32"],
    "unet:UNet": ["3x32x32"],
    "excite:make": ["3x32x32"],
    "vit:ViT": ["3x32x32"],
    "recurrent:Reader": ["3x32x48"],
    "two_inputs:Captioned": ["image=3x32x32", "tokens=16:int64:1000"],
    "two_outputs:Detector": ["3x32x32"],
    "convolutional:Sharpen": ["image=3xHxW"],
}
WITHOUT_ENGINE = [verb for verb in targets.ROAD if verb != "build"]

Walk = Callable[..., Report]


@pytest.fixture
def walk(tmp_path: Path, with_engine: Options) -> Walk:
    """Takes a model of tests/own down the road, with an engine unless told otherwise."""

    def go(name: str, inputs: list[str], exporter: str = "torchscript", engine: bool = True) -> Report:
        file, _, made = name.partition(":")
        tensors = asked.tensors(inputs)
        words = {side for tensor in tensors for side in tensor.shape}
        sizes = {word: limits for word, limits in SIZES.items() if word in words}
        options = dataclasses.replace(with_engine if engine else QUICK, exporter=exporter, sizes=sizes)
        recipe = targets.ROAD if engine else WITHOUT_ENGINE
        job = Job(catalog.find(f"{OWN / file}.py:{made}", tensors), options)
        return report.read(list(pipeline.run(job, recipe, tmp_path / "run"))[-1].path)

    return go


def failures(written: Report) -> dict[str, set[str]]:
    """What the checks of each stage failed against."""
    failed: dict[str, set[str]] = {}
    for hop in written.hops:
        for check in hop.checks:
            if check.broken:
                failed.setdefault(hop.stage, set()).add(check.against)
    return failed


@pytest.mark.parametrize(
    ("name", "exporter"),
    [(name, "torchscript") for name in ARCHITECTURES]
    + [(name, "dynamo") for name in ("vit:ViT", "two_inputs:Captioned", "convolutional:Sharpen")],
)
def test_an_architecture_goes_down_the_whole_road(name: str, exporter: str, walk: Walk, tmp_path: Path) -> None:
    written = walk(name, ARCHITECTURES[name], exporter)
    assert verdict.broken(written) == ()
    statuses = {hop.stage: hop.status for hop in written.hops}
    assert statuses.pop("build") == report.BUILT_NOT_RUN
    assert set(statuses.values()) == {report.MEASURED}
    assert (tmp_path / "run" / "build" / "engine.plan").stat().st_size > 10_000
    (engine,) = written.engines
    assert engine.layers["HALF"] > engine.layers["FLOAT"]


@pytest.mark.parametrize(
    ("name", "inputs", "kept", "remark"),
    [
        ("vit:ViT", "3x32x32", "dynamo", "that of the torchscript exporter is as exact and less simple"),
        ("foreign:Spectrum", "16", "dynamo", "the torchscript exporter refuses the model: .*'aten::fft_rfft'"),
        ("foreign:Asking", "16", "torchscript", "the dynamo exporter refuses the model: Could not guard on data"),
    ],
)
def test_auto_keeps_the_exporter_that_takes_the_model(
    name: str, inputs: str, kept: str, remark: str, walk: Walk
) -> None:
    written = walk(name, [inputs], "auto", engine=False)
    assert verdict.broken(written) == ()
    (line,) = (line for line in written.remarks if line.startswith("translate: "))
    assert re.match(rf"translate: kept the graph of the {kept} exporter \(.*\): {remark}", line)


@pytest.mark.parametrize(
    ("name", "inputs", "why"),
    [
        ("CropByInt", "3xHxW", r"is wrong: error \d\.\de-0\d against eager at H 32, W 32"),
        ("MapByInt", "3xHxW", "does not hold: against eager at H 32, W 32, shapes differ"),
        ("BatchByLen", "3x32x32", r"does not hold: ONNX Runtime fails on input \(4, 3, 32, 32\)"),
    ],
)
def test_auto_leaves_the_exporter_that_bakes_a_number_in(name: str, inputs: str, why: str, tmp_path: Path) -> None:
    tensors = asked.tensors([inputs])
    sizes = SIZES if "H" in inputs else {}
    job = Job(catalog.find(f"{OWN}/fixed.py:{name}", tensors), dataclasses.replace(QUICK, exporter="auto", sizes=sizes))
    notes = list(pipeline.run(job, ("instantiate", "record", "translate"), tmp_path / "run"))[-1].notes
    assert notes["exporter"] == "dynamo"
    assert re.search(f"the graph of the torchscript exporter {why}", str(notes["remarks"]))


def test_auto_gives_both_reasons_where_no_graph_holds(walk: Walk) -> None:
    line = (
        "the torchscript exporter is wrong: error .* at H 64.*; the graph of the dynamo exporter is wrong: error .* at"
    )
    with pytest.raises(StageFailed, match=line):
        walk("fixed:LouderWhenLarge", ["3xHxW"], "auto", engine=False)


def test_inputs_and_outputs_keep_their_names_types_and_free_sizes(walk: Walk, tmp_path: Path) -> None:
    def described(model: onnx.ModelProto) -> dict[str, list[int | str]]:
        ends = (*model.graph.input, *model.graph.output)
        return {
            end.name: [end.type.tensor_type.elem_type]
            + [side.dim_param or side.dim_value for side in end.type.tensor_type.shape.dim]
            for end in ends
        }

    walk("two_inputs:Captioned", ARCHITECTURES["two_inputs:Captioned"], engine=False)
    assert described(onnx.load(tmp_path / "run" / "halve" / "graph.onnx")) == {
        "image": [onnx.TensorProto.FLOAT, "batch", 3, 32, 32],
        "tokens": [onnx.TensorProto.INT64, "batch", 16],
        "logits": [onnx.TensorProto.FLOAT, "batch", 10],
    }
    walk("two_outputs:Detector", ["3x32x32"], engine=False)
    assert described(onnx.load(tmp_path / "run" / "translate" / "graph.onnx")) == {
        "input": [onnx.TensorProto.FLOAT, "batch", 3, 32, 32],
        "output_0": [onnx.TensorProto.FLOAT, "batch", 10],
        "output_1": [onnx.TensorProto.FLOAT, "batch", 1, 8, 8],
    }
    walk("convolutional:Sharpen", ["image=3xHxW"], engine=False)
    assert described(onnx.load(tmp_path / "run" / "translate" / "graph.onnx")) == {
        "image": [onnx.TensorProto.FLOAT, "batch", 3, "H", "W"],
        "logits": [onnx.TensorProto.FLOAT, "batch", 1, "logits_2", "logits_3"],
    }


CORNERS = {f"eager at H {height}, W {width}" for height in (32, 64) for width in (32, 64)}


def test_every_corner_of_the_free_sizes_is_run(walk: Walk) -> None:
    written = walk("convolutional:Sharpen", ["image=3xHxW"], engine=False)
    for hop in written.hops[1:]:
        against = {check.against for check in hop.checks}
        assert against >= CORNERS | {"FP64", "itself at the largest batch"}


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_size_that_was_baked_in_is_wrong_at_the_corners(exporter: str, walk: Walk) -> None:
    failed = failures(walk("fixed:CropByInt", ["3xHxW"], exporter, engine=False))
    stages = {"script", "translate", "simplify", "rewrite", "halve"} if exporter == "torchscript" else {"script"}
    assert failed == dict.fromkeys(stages, CORNERS)


def test_a_branch_on_the_size_is_wrong_at_the_largest_corners(walk: Walk) -> None:
    failed = failures(walk("fixed:LouderWhenLarge", ["3xHxW"], engine=False))
    large = {corner for corner in CORNERS if "H 64" in corner}
    assert failed == dict.fromkeys(("script", "translate", "simplify", "rewrite", "halve"), large)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_graph_that_mixes_the_batch_is_not_itself_at_another(exporter: str, walk: Walk) -> None:
    failed = failures(walk("fixed:BatchMixed", ["3x32x32"], exporter, engine=False))
    assert failed == {
        stage: {"itself at the largest batch"} for stage in ("script", "translate", "simplify", "rewrite", "halve")
    }


@pytest.mark.parametrize(
    ("name", "inputs", "exporter", "line"),
    [
        ("BatchByLen", "3x32x32", "torchscript", r"ONNX Runtime fails on input \(4, 3, 32, 32\): Add node '/Add': "),
        ("BatchByLen", "3x32x32", "dynamo", r"TorchScript fails on input \(32, 3, 32, 32\): .* size of tensor a"),
        ("BatchByInt", "3x32x32", "torchscript", "ONNX Runtime fails on input .*: Reshape node '/Reshape': "),
        ("BatchByInt", "3x32x32", "dynamo", r"TorchScript fails on .* shape '\[4, 8\]' is invalid"),
        ("BatchOfFour", "3x32x32", "torchscript", r"does not run on input \(2, 3, 32, 32\): shape '\[4, 8\]'"),
        ("Squeezed", "3x32x32", "torchscript", r"fixed_Squeezed gives a tensor \(10,\) for a batch of 1"),
        ("Pairs", "3x32x32", "torchscript", r"gives logits as \(1, 1\) of 1 case, and as \(2, 2\) of 2"),
        ("SizeOf48", "3xHxW", "torchscript", r"does not run on input \(1, 3, 32, 32\): shape '\[-1, 8, 576\]'"),
        ("SizeByInt", "3xHxW", "torchscript", r"ONNX Runtime fails on input \(2, 3, 32, 32\): .*:{-1,8,576}"),
        (
            "MapByInt",
            "3xHxW",
            "torchscript",
            r"script/script.pt against eager at H 32, W 32: shapes differ: \(2, 8, 48, 48\) and \(2, 8, 32, 32\)",
        ),
    ],
)
def test_a_number_that_was_baked_in_is_refused(name: str, inputs: str, exporter: str, line: str, walk: Walk) -> None:
    with pytest.raises(StageFailed, match=line) as refusal:
        walk(f"fixed:{name}", [inputs], exporter, engine=False)
    assert "\n" not in f"{refusal.value}{refusal.value.remedy}"


@pytest.mark.parametrize("images", [1, 8])
def test_the_largest_batch_is_run_however_few_the_images(images: int, tmp_path: Path) -> None:
    options = dataclasses.replace(QUICK, images=images, exporter="dynamo", batch=Range(1, 2, 5))
    job = Job(catalog.find(f"{OWN}/fixed.py:BatchByInt", asked.tensors(["3x32x32"])), options)
    with pytest.raises(StageFailed, match=r"TorchScript fails on input \(5, 3, 32, 32\)"):
        list(pipeline.run(job, WITHOUT_ENGINE, tmp_path / "run"))


@pytest.mark.parametrize("name", ["Tied", "Listing", "Upcasting", "Drawing", "Lazy"])
def test_an_uncommon_habit_is_allowed(name: str, walk: Walk) -> None:
    assert verdict.broken(walk(f"odd:{name}", ["16"])) == ()


@pytest.mark.parametrize(
    ("name", "exporter", "line"),
    [
        ("Spectrum", "torchscript", "the torchscript exporter refuses the model: .*'aten::fft_rfft'"),
        ("Spectrum", "dynamo", "TensorRT does not take DFT node '/model/DFT_"),
        ("Determinant", "torchscript", "TensorRT does not take Det node '/Det'"),
        ("Dropping", "torchscript", "foreign_Dropping answers the same inputs differently each time"),
        ("Naming", "torchscript", "foreign_Naming gives a dict$"),
        ("Nested", "torchscript", "foreign_Nested gives a tuple among its outputs$"),
        ("Brief", "torchscript", "foreign_Brief gives a tensor of bfloat16"),
        ("Remembering", "torchscript", "foreign_Remembering keeps a dict in its state: _extra_state"),
        ("NotANumber", "torchscript", "the model itself answers with NaN"),
        ("raising", "torchscript", "raises KeyError: .no width 3"),
        ("leaving", "torchscript", "raises SystemExit: usage: train.py"),
        ("text", "torchscript", "gives a str$"),
        ("scripted", "torchscript", "gives a RecursiveScriptModule$"),
    ],
)
def test_a_refusal_names_what_it_is_about(name: str, exporter: str, line: str, walk: Walk, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=line) as refusal:
        walk(f"foreign:{name}", ["16"], exporter)
    assert "\n" not in f"{refusal.value}{refusal.value.remedy}"
    assert all((room / "receipt.json").is_file() for room in (tmp_path / "run").glob("*"))


def test_the_exporter_says_nothing_but_its_refusal(walk: Walk, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StageFailed):
        walk("foreign:Spectrum", ["16"])
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_crashes_onnx_runtime_ends_only_a_child(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halve, "_PROGRAM", "import os; os.abort()")
    with pytest.raises(StageFailed, match="the FP16 graph cannot be opened: ONNX Runtime was killed by SIGABRT"):
        walk("odd:Lazy", ["16"], engine=False)


def test_what_the_tracer_cannot_follow_is_in_the_receipt(walk: Walk, tmp_path: Path) -> None:
    walk("fixed:CropByInt", ["3xHxW"], engine=False)
    lines = (OWN / "fixed.py").read_text().splitlines()
    number = next(place for place, line in enumerate(lines, start=1) if "// 4]" in line)
    notes = {sealed.made_by: sealed.notes for _, sealed in pipeline.rooms(tmp_path / "run")}
    assert notes["script"]["fixed_at_export"] == [f"fixed.py:{number}"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("=16", "an input is called ''"),
        ("my vector=16", "an input is called 'my vector'"),
        ("logits=16", "odd_Lazy has an output called logits too"),
        ("batch", "input has a size called batch besides its first"),
    ],
)
def test_a_word_that_cannot_be_used_is_refused(text: str, line: str, walk: Walk) -> None:
    with pytest.raises(BadInput, match=line):
        walk("odd:Lazy", [text], engine=False)


QUIET = ("--images", "4", "--seconds", "0.1")
NET = """
from torch import nn

def make(width=8, **other):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))

def failing(): raise RuntimeError("out of ideas")
def words(): return "no model"
class Naming(nn.Module):
    def forward(self, x): return {"logits": x}
"""


@pytest.mark.parametrize(
    ("arguments", "code", "problem", "remedy"),
    [
        (("net.py:make",), 2, "nobody says what net.py:make takes", "--input 3x224x224"),
        (("nat.py:make", "--input", "3x32x32"), 2, "there is no file nat.py", "check the path"),
        (("net.py:nothing", "--input", "3x32x32"), 2, "net.py has no function 'nothing'", "net.py:FUNCTION"),
        (("nowhere.net:make", "--input", "3x32x32"), 2, "there is no module 'nowhere.net'", "path/to/file.py"),
        (("net.py:failing", "--input", "3x32x32"), 7, "net.py:failing raises RuntimeError: out of ideas", "--arg"),
        (("net.py:words", "--input", "3x32x32"), 7, "net.py:words gives a str", "torch.nn.Module"),
        (("net.py:Naming", "--input", "3x32x32"), 7, "net_Naming gives a dict", "return a tensor"),
        (("net.py:make", "--input", "1x32x32"), 7, "net_make does not run on input (2, 1, 32, 32): ", "--input"),
        (("net.py:make", "--input", "3x2x2"), 7, "net_make does not run on input (2, 3, 2, 2): ", "--input"),
        (("net.py:make", "--input", "3x32x32:int64"), 7, "net_make does not run on input (2, 3, 32, 32): ", "--input"),
        (
            ("net.py:make", "--input", "3x32x32", "--input", "b=4"),
            7,
            "net_make does not run on input (2, 3, 32, 32), b (2, 4): ",
            "--input",
        ),
        (("net.py:failing", "--input", "3x32x32", "--arg", "w=3"), 7, "net.py:failing raises TypeError: ", "--arg"),
        (("net.py:make", "--input", "3x32x32", "--arg", "width=wide"), 7, "net.py:make raises TypeError: ", "--arg"),
        (("net.py:make", "--input", "3x32x32", "--arg", "width"), 2, "--arg width is no argument", "NAME=VALUE"),
        (("net.py:make", "--input", "3xHx32"), 2, "nobody says how large H is", "--size H=SMALLEST"),
        (("net.py:make", "--input", "3x32x32", "--size", "H=1:2:3"), 2, "no input has a free size H", "none"),
        (("net.py:make", "--input", "3xHx32", "--size", "H=9:2:3"), 2, "--size H 9:2:3 does not grow", "1:8:32"),
        (("net.py:make", "--input", "a=3x8x8", "--input", "a=4"), 2, "two inputs are called a", "--input NAME="),
        (("net.py:make", "--input", "3x32x32:float8"), 2, "--input 3x32x32:float8 has no type we know", "float32"),
        (("shufflenet_g3", "--input", "1x28x28"), 7, "shufflenet_g3 does not run on input (2, 1, 28, 28)", "--input"),
        (("shufflenet_g3", "--arg", "depth=7"), 7, "deploytool.models.shufflenet:shufflenet raises TypeE", "--arg"),
    ],
)
def test_wrong_use_gets_one_clear_line(
    deploytool: Command, tmp_path: Path, arguments: tuple[str, ...], code: int, problem: str, remedy: str
) -> None:
    (tmp_path / "net.py").write_text(NET)
    done = deploytool("export", *arguments, *QUIET)
    said = done.stderr.splitlines()
    assert (done.returncode, len(said)) == (code, 2), done.stderr
    assert said[0].startswith(f"deploytool: {problem}")
    assert remedy in said[1]
    assert not [path for path in tmp_path.rglob("artifacts/**/*") if path.is_file()]


def made_anew(output: str) -> list[str]:
    """The stages that did not keep what was there."""
    lines = [line.split() for line in output.splitlines()]
    return [words[0] for words in lines if words and words[0] in targets.ROAD and words[1] != "kept"]


def test_what_a_file_imports_is_its_own_and_an_edit_rebuilds(deploytool: Command, tmp_path: Path) -> None:
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
    assert made_anew(first.stdout) == WITHOUT_ENGINE
    assert made_anew(again.stdout) == []
    for name, old, new in (("blocks.py", "Flatten()", "Flatten(), nn.ReLU()"), ("models/heads.py", "4)", "5)")):
        (tmp_path / "project" / name).write_text(files[name].replace(old, new))
        assert made_anew(deploytool(*arguments).stdout) == WITHOUT_ENGINE


def test_a_module_of_a_package_and_an_edit_beside_it(deploytool: Command, tmp_path: Path) -> None:
    package = tmp_path / "place" / "mine"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sizes.py").write_text("width = 8\n")
    (package / "net.py").write_text(f"from .sizes import width\n{NET}")
    there = {"PYTHONPATH": f"{ROOT}:{tmp_path / 'place'}"}
    arguments = ("export", "mine.net:make", "--input", "3x8x8", "--arg", "width=4", *QUIET)
    assert made_anew(deploytool(*arguments, **there).stdout) == WITHOUT_ENGINE
    (package / "sizes.py").write_text("width = 9\n")
    assert made_anew(deploytool(*arguments, **there).stdout) == WITHOUT_ENGINE


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
    there = {"PYTHONPATH": f"{ROOT}:{site}"}
    listed = deploytool("models", **there)
    assert listed.returncode == 0, listed.stderr
    assert "their_net" in listed.stdout
    assert "their_net" not in deploytool("models").stdout
    done = deploytool("export", "their-net", *QUIET, **there)
    assert (done.returncode, done.stderr) == (0, "")
    assert "their_net: largest error / largest output on 4 golden images" in done.stdout
    graph = onnx.load(tmp_path / "artifacts" / "their_net" / "halve" / "graph.onnx")
    assert [end.name for end in (*graph.graph.input, *graph.graph.output)] == ["image", "logits"]


def test_every_definition_here_is_used() -> None:
    used = {name.partition(":")[0] for name in ARCHITECTURES} | {"fixed", "odd", "foreign", "c2f"}
    assert {path.stem for path in OWN.glob("*.py")} == used
