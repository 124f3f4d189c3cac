"""The plan of an export carries every option to the stages that read it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deploytool import targets
from deploytool.builder_settings import BuilderSettings
from deploytool.errors import BadInput, ResourceExhausted
from deploytool.host import memory
from deploytool.pipeline import metric_options
from deploytool.pipeline.export_options import DECLARATIONS, ExportOptions
from deploytool.pipeline.plan import plan_export
from deploytool.spec import Decision, Model, Options, Precision, Range, Source, Stage, TargetPlan, Tensor
from tests.conftest import TINY

# by field of Options, each with a value that is not the default: the option as stated, and as the stages read it
RESOLVED: dict[str, tuple[Any, Any]] = {
    "seed": (7, 7),
    "trust_code": (True, True),
    "images": (5, 5),
    "exporter": ("dynamo", "dynamo"),
    "opset": (20, 20),
    "floor": ({"ort": "1.20"}, {"ort": "1.20"}),
    "batch": ((1, 2, 4), Range(1, 2, 4)),
    "rewrite": ("grouped", "grouped"),
    "io": ("fp16", Precision.FP16),
    "keep_fp32": ("stem, head", ("stem", "head")),
    "runner": ("reference", "reference"),
    "tolerance": ({"fp16": 0.005}, {"fp16": 0.005}),
    "faults": (2, 2),
    "min_speedup": (1.5, 1.5),
    "precision": ("bf16", (Precision.BF16,)),
    "seconds": (0.5, 0.5),
    "sequence": (3, 3),
    "outputs": (["logits"], ("logits",)),
}
FILES = {"weights", "data", "cases"}  # of these the stages read path and digest
OTHERS = {"inputs", "sizes", "targets", "metric", "labels", "max_drop", "calibration", "keep"}  # tested below


def test_every_option_that_stages_read_is_tested() -> None:
    shared = {field.name for field in fields(Options)} & set(DECLARATIONS)
    assert shared == set(RESOLVED) | FILES | OTHERS


@pytest.mark.parametrize("name", RESOLVED)
def test_an_option_reaches_the_stages(name: str) -> None:
    stated, resolved = RESOLVED[name]
    assert getattr(plan_export(TINY, ExportOptions()).options, name) != resolved
    assert getattr(plan_export(TINY, ExportOptions(**{name: stated}, pack=True)).options, name) == resolved


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_or_folder_reaches_the_stages_with_its_digest(name: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.mkdir() if name == "data" else path.write_bytes(b"1")
    stated: dict[str, Any] = {name: path}
    source = getattr(plan_export(TINY, ExportOptions(**stated)).options, name)
    assert source.path == str(path)
    assert len(source.digest) == 64


def test_inputs_sizes_and_targets_reach_the_stages() -> None:
    options = ExportOptions(
        inputs=[Tensor("input", ("batch", 3, "H", "H"))], sizes={"H": (32, 48, 64)}, targets="rtx40,orin"
    )
    plan = plan_export("mobilenet_v1_cifar", options)
    assert plan.model.inputs == (Tensor("input", ("batch", 3, "H", "H")),)
    assert plan.options.sizes == {"H": Range(32, 48, 64)}
    assert [decision.target for decision in plan.options.targets] == ["rtx40", "orin"]
    assert plan.options.engines


def test_the_settings_of_the_builder_reach_the_stages() -> None:
    stated = ExportOptions(workspace=64, builder_memory=512, optimization_level=5)
    assert plan_export(TINY, stated).options.builder == BuilderSettings(64, 512, 5)
    for bad in (ExportOptions(workspace=0), ExportOptions(builder_memory=-1), ExportOptions(optimization_level=6)):
        with pytest.raises(BadInput):
            plan_export(TINY, bad)


def test_weights_are_left_out_of_engines_of_the_full_tensorrt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for stated in (ExportOptions(strip_weights=True), ExportOptions(strip_weights=True, targets="rtx40,orin")):
        with pytest.raises(BadInput, match="--strip-weights needs an engine of the full TensorRT"):
            plan_export(TINY, stated)
    here = Decision("this", TargetPlan.HERE, "it has the GPU", "9.0", targets.TENSORRT)
    monkeypatch.setattr(targets, "plan_engines", lambda names: (here,))
    assert plan_export(TINY, ExportOptions(strip_weights=True, trt=True)).options.builder.stripped


def test_several_ranges_of_a_dimension_are_profiles() -> None:
    image = [Tensor("input", ("batch", 3, "H", "W"))]
    sizes: dict[str, Any] = {"H": [Range(32, 48, 64), Range(128, 128, 160)], "W": Range(32, 64, 96)}
    options = plan_export("mobilenet_v1_cifar", ExportOptions(inputs=image, sizes=sizes)).options
    assert options.sizes == {"H": Range(32, 48, 160), "W": Range(32, 64, 96)}
    assert options.builder.profiles == (
        {"H": Range(32, 48, 64), "W": Range(32, 64, 96)},
        {"H": Range(128, 128, 160), "W": Range(32, 64, 96)},
    )
    one = plan_export("mobilenet_v1_cifar", ExportOptions(inputs=image, sizes={"H": (32, 48, 64), "W": 32})).options
    assert (one.builder.profiles, one.sizes["W"]) == ((), Range(32, 32, 32))
    with pytest.raises(BadInput, match="--size gives 2 ranges of H and 3 of W"):
        plan_export("mobilenet_v1_cifar", ExportOptions(inputs=image, sizes={**sizes, "W": [Range(8, 8, 8)] * 3}))
    with pytest.raises(BadInput, match="--size H has no range"):
        plan_export("mobilenet_v1_cifar", ExportOptions(inputs=image, sizes={**sizes, "H": []}))


def test_the_options_of_int8_reach_the_stages(tmp_path: Path) -> None:
    file = tmp_path / "cases.npz"
    file.write_bytes(b"1")
    plan = plan_export(TINY, ExportOptions(precision="int8", calibration=file, keep="stem, head"))
    assert plan.options.calibration is not None
    assert (plan.options.calibration.path, len(plan.options.calibration.digest)) == (str(file), 64)
    assert plan.options.keep == ("stem", "head")
    assert {Stage.CALIBRATE, Stage.INT8, Stage.FP16, Stage.METRIC} <= set(plan.recipe)
    assert not {Stage.CALIBRATE, Stage.INT8, Stage.METRIC} & set(plan_export(TINY, ExportOptions()).recipe)


def test_a_changed_image_of_a_table_is_other_calibration_data(tmp_path: Path) -> None:
    table, image = tmp_path / "cases.csv", tmp_path / "1.png"
    table.write_text("input\n1.png\n")
    digests = set()
    for content in (b"1", b"22"):
        image.write_bytes(content)
        calibration = plan_export(TINY, ExportOptions(precision="int8", calibration=table)).options.calibration
        assert calibration is not None
        digests.add(calibration.digest)
    assert len(digests) == 2


def test_fp8_calibrates_and_is_judged_as_int8_is_with_or_without_it(tmp_path: Path) -> None:
    file = tmp_path / "cases.npz"
    file.write_bytes(b"1")
    alone, both = (
        set(plan_export(TINY, ExportOptions(precision=each, calibration=file)).recipe) for each in ("fp8", "int8,fp8")
    )
    assert {Stage.CALIBRATE, Stage.FP8, Stage.FP16, Stage.METRIC} <= alone
    assert both - alone == {Stage.INT8}
    assert alone - set(plan_export(TINY, ExportOptions()).recipe) == {Stage.CALIBRATE, Stage.FP8, Stage.METRIC}


def test_the_metric_reaches_the_stages_with_labels_and_margin(tmp_path: Path) -> None:
    for name in ("images/cat/a.png", "images/dog/b.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(path)
    (tmp_path / "l.csv").write_text("cat/a.png,1\n")
    (tmp_path / "m.py").write_text("def score(outputs, targets): return [1.0] * len(targets)\n")
    reference = f"{tmp_path / 'm.py'}:score"
    stated = ExportOptions(data=tmp_path / "images", labels=tmp_path / "l.csv", metric=reference, max_drop="0.5pt")
    options = plan_export(TINY, stated).options
    assert options.metric is not None
    assert options.labels is not None
    assert (options.metric.path, options.labels.path, options.max_drop) == (reference, str(tmp_path / "l.csv"), 0.005)
    assert len(options.metric.digest) == len(options.labels.digest) == 64
    usual = plan_export(TINY, ExportOptions(data=tmp_path / "images", task="classify", max_drop="10pt")).options
    assert usual.metric == Source("top1", "")
    assert plan_export(TINY, ExportOptions(data=tmp_path / "images")).options.metric is None


@pytest.mark.parametrize(
    ("metric", "max_drop", "remedy"),
    [
        ("top1", "0.5", "write --max-drop 0.5pt for 0.5 points, or 50pt"),
        ("top1", 0.005, "write --max-drop 0.005pt for 0.005 points, or 0.5pt"),
        ("top1", "100pt", "write points with their unit: --max-drop 0.5pt"),
        ("top1", "0.5 pt", None),
        ("cosine", 0.01, None),
        ("m.py:score", "0.5", None),
    ],
)
def test_a_margin_in_percent_needs_its_unit(
    metric: str, max_drop: float | str, remedy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("images/cat/a.png", "images/dog/b.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "m.py").write_text("def score(outputs, targets): return [1.0] * len(targets)\n")
    stated = ExportOptions(data=Path("images"), metric=metric, max_drop=max_drop)
    if remedy is None:
        assert plan_export(TINY, stated).options.max_drop == metric_options.margin(max_drop)
        return
    with pytest.raises(BadInput) as refused:
        plan_export(TINY, stated)
    assert refused.value.remedy == remedy


def test_a_function_as_metric_is_told_to_be_named() -> None:
    def inner(outputs: object, targets: object) -> object:
        return outputs

    for function, named in ((score, f"metric={f'{__file__}:score'!r}"), (inner, "metric='FILE.py:score'")):
        given: Any = function
        with pytest.raises(BadInput) as refused:
            plan_export(TINY, ExportOptions(metric=given))
        assert "name its function" in refused.value.remedy
        assert named in refused.value.remedy
        assert "0x" not in str(refused.value)


def score(outputs: object, targets: object) -> object:
    return outputs


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", (0.1, 0.2, 0.3)),
        ("std", (0.1, 0.2, 0.3)),
        ("scale", 0.5),
        ("channels", "BGR"),
        ("resize", 48),
        ("interpolation", "area"),
    ],
)
def test_stated_preprocessing_reaches_the_model(name: str, value: Any) -> None:
    assert getattr(TINY.preprocessing, name) != value
    stated: dict[str, Any] = {name: value}
    assert getattr(plan_export(TINY, ExportOptions(**stated)).model.preprocessing, name) == value


def test_a_stated_crop_reaches_the_model() -> None:
    assert plan_export(TINY, ExportOptions(crop=32)).model.preprocessing.stated == ("crop",)


def test_a_layout_and_a_preset_reach_the_model() -> None:
    inputs = [(32, 32, 3)]
    plan = plan_export("mobilenet_v1_cifar", ExportOptions(inputs=inputs, layout="NHWC", preprocess="none"))
    assert plan.model.preprocessing.layout == "NHWC"
    assert plan.model.preprocessing.scale == 1.0


def test_a_junit_file_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    out = tmp_path / "run"
    fitting = [tmp_path / "file", tmp_path / "new" / "er" / "checks.xml", out / "checks.xml"]
    names = ["folder", "file/checks.xml", "run", "x" * 300, "run/../run", "loop/a", "x" * 300 + "/checks.xml"]
    for path in fitting:
        plan_export(TINY, ExportOptions(out=out, junit=path))
    for path in (Path("/proc/nowhere/checks.xml"), *(tmp_path / name for name in names)):
        with pytest.raises(BadInput, match=r"^cannot write ") as caught:
            plan_export(TINY, ExportOptions(out=out, junit=path))
        assert caught.value.remedy == "choose another path with --junit"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "loop"]
    assert not any((tmp_path / "folder").iterdir())


def test_pixels_are_an_input_of_every_graph() -> None:
    plan = plan_export(TINY, ExportOptions(io="uint8", layout="NHWC", to="onnx"))
    assert plan.model.inputs == (Tensor("input", ("batch", 32, 32, 3), "uint8", 256),)
    assert plan.model.normalised == TINY.inputs
    assert plan.options.io is Precision.FP32


@pytest.mark.parametrize(
    ("options", "problem", "remedy"),
    [
        ({"exporter": "torchscript", "opset": 21}, "torchscript exporter writes opsets up to 20, not 21", "--opset 20"),
        ({"to": "onnx", "keep_fp32": "auto"}, "--keep-fp32 is for the FP16 graph, which --to onnx leaves out", "--to"),
        ({"to": "onnx", "io": "fp16"}, "--io fp16 is for the FP16 graph, which --to onnx leaves out", "--io fp16"),
        ({"sequence": 3}, "--sequence 3 is for a bundle, and none is packed", "add --pack"),
        ({"floor": {"tf": "2"}}, "--floor tf=2 names no runtime", "ort, trt"),
        ({"floor": {"ort": "new"}}, "--floor ort=new is not a version", "ort=1.15"),
        ({"floor": {"ort": "1.14"}}, "--floor ort=1.14 is older than 1.15, the oldest release known here", "ort=1.15"),
        ({"floor": {"ort": "1.20"}, "opset": 22}, "ONNX Runtime 1.20 reads opsets up to 21, not 22", "--opset 21"),
        ({"floor": {"trt": "10.3"}, "opset": 21}, "TensorRT 10.3 reads opsets up to 20, not 21", "--opset 20"),
        ({"trt": True, "opset": 23}, "TensorRT cannot build every model from opset 23", "--opset 22"),
    ],
)
def test_options_that_have_no_effect_together_are_refused(options: dict[str, Any], problem: str, remedy: str) -> None:
    with pytest.raises(BadInput, match=problem) as caught:
        plan_export(TINY, ExportOptions(**options))
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 10**9},
        {"inputs": [(3, "H", "H")], "sizes": {"H": (64, 64, 10**6)}},
        {"inputs": [(5, 10**6, 10**6)]},
        {"inputs": [(10**7,)], "images": 4096, "batch": 1},
    ],
)
def test_inputs_that_exceed_the_memory_are_refused(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 64 << 30)
    with pytest.raises(ResourceExhausted, match=r"need .* of memory; 68.7 GB are available") as caught:
        plan_export("mobilenet_v1_cifar" if "inputs" in options else TINY, ExportOptions(**options))
    assert "--batch" in caught.value.remedy


def test_the_sizes_of_a_model_are_defaults() -> None:
    model = Model(
        "text",
        TINY.factory,
        inputs=(Tensor("ids", ("batch", "sequence"), "int64"),),
        sizes={"sequence": Range(8, 64, 128), "unused": Range()},
    )
    assert plan_export(model, ExportOptions()).options.sizes == {"sequence": Range(8, 64, 128)}
    assert plan_export(model, ExportOptions(sizes={"sequence": 32})).options.sizes == {"sequence": Range(32, 32, 32)}


def test_arguments_of_forward_are_part_of_the_definition() -> None:
    options = ExportOptions(inputs=[(4,)], forward={"flag": True})
    assert plan_export(f"{__file__}:make", options).model.constants == {"flag": True}
    with pytest.raises(BadInput, match="defines its inputs and arguments itself"):
        plan_export(TINY, ExportOptions(forward={"flag": True}))
