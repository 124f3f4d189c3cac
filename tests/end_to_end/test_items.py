"""A model of two images of different sizes, from folders and a CSV file to the bundle and `run` on the device."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch
from PIL import Image

import deploytool
from deploytool import device
from deploytool.bundle.manifest import describe_file, read_manifest, write_manifest
from deploytool.data import golden
from deploytool.device import inputs as device_inputs
from deploytool.errors import BadInput, NotVerified
from deploytool.pipeline import plan
from deploytool.spec import Tensor
from tests.conftest import ROOT, Command
from tests.data.test_image_folder import fill
from tests.user_models.stereo import Stereo

MODEL = f"{ROOT / 'tests' / 'user_models' / 'stereo.py'}:Stereo"
SIZES = {"left": (32, 48), "right": (40, 40)}  # height and width
MADE: dict[str, Any] = {
    "inputs": [Tensor(name, ("batch", 3, *size)) for name, size in SIZES.items()],
    "mean": 0,
    "std": 1,
    "quick": True,
}
MEASURE = (
    "import numpy as np\ndef score(outputs, targets):\n    return outputs['logits'][np.arange(len(targets)), targets]\n"
)
ITEMS = 6


def tensor(path: Path, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The input for an image, by Pillow and numpy alone."""
    with Image.open(path) as opened:
        resized = opened.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)
    return (np.asarray(resized).astype(np.float32) * np.float32(1 / 255)).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for each input, with classes; the images have sizes of their own."""
    folder = tmp_path_factory.mktemp("items")
    rng = np.random.default_rng(0)
    for number in range(ITEMS):
        for name, suffix in (("left", "png"), ("right", "bmp")):
            path = folder / "pairs" / name / ("same" if number % 2 else "other") / f"{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (50 + number, 60) if name == "left" else (45, 70 + number)
            Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(path)
    (folder / "measure.py").write_text(MEASURE)
    return folder


def items(data: Path, name: str) -> list[Path]:
    """The images of an input in the order of the classes."""
    return [path for group in ("other", "same") for path in sorted((data / "pairs" / name / group).iterdir())]


@pytest.fixture(scope="module")
def run(data: Path) -> deploytool.Run:
    measure = f"{data / 'measure.py'}:score"
    run = deploytool.export(MODEL, **MADE, data=data / "pairs", metric=measure, pack=True, out=data / "run")
    return run.check()


def test_golden_inputs_are_those_of_pillow(run: deploytool.Run, data: Path) -> None:
    sample = golden.read(run.folder / "golden" / "golden.npz")
    assert sample.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for name, size in SIZES.items():
        expected = np.stack([tensor(path, size) for path in items(data, name)])
        np.testing.assert_allclose(sample.inputs[name], expected, rtol=0, atol=1e-7)
    assert {edge.name.rpartition(" ")[2] for edge in sample.edges} == {"left", "right"}


def test_the_metric_sees_the_items(run: deploytool.Run, data: Path) -> None:
    document = json.loads((run.folder / "validate" / "report.json").read_text())
    with torch.inference_mode():
        pairs = (
            torch.from_numpy(np.stack([tensor(path, size) for path in items(data, name)]))
            for name, size in SIZES.items()
        )
        scores = Stereo().eval()(*pairs).numpy()
    expected = scores[np.arange(ITEMS), [0, 0, 0, 1, 1, 1]].mean()
    assert document["measures"]["source"] == pytest.approx(expected, abs=1e-5)
    accuracy = (scores.argmax(1) == [0, 0, 0, 1, 1, 1]).mean()
    found = [comparison["accuracy"] for comparison in document["comparisons"] if comparison["accuracy"]]
    assert found
    assert found[0]["source"] == pytest.approx(accuracy)
    for hard in document["measures"]["hardest"]:
        with Image.open(run.folder / "metric" / hard["picture"]) as drawn:
            assert drawn.width > 3 * 60  # left, left, right


def test_the_bundle_has_the_images_of_every_input(run: deploytool.Run) -> None:
    assert run.bundle
    manifest = read_manifest(run.bundle)
    ((further),) = manifest.golden.further
    assert (further.name, len(further.images), len(manifest.golden.images)) == ("right", ITEMS, ITEMS)
    sample = golden.read(run.bundle / manifest.golden.path)
    for name, paths in (("left", manifest.golden.images), ("right", further.images)):
        for path, expected in zip(paths, sample.inputs[name], strict=True):
            np.testing.assert_allclose(tensor(run.bundle / path, SIZES[name]), expected, rtol=0, atol=1e-7)


def test_the_device_answers_items(run: deploytool.Run, data: Path, deploytool: Command) -> None:
    assert run.bundle
    manifest = read_manifest(run.bundle)
    session = ort.InferenceSession(run.bundle / manifest.graphs[0].path)  # FP32, which runs on a CPU
    lefts, rights = (items(data, name)[:2] for name in SIZES)
    expected = [
        session.run(None, {"left": tensor(left, SIZES["left"])[None], "right": tensor(right, SIZES["right"])[None]})[0]
        for left, right in zip(lefts, rights, strict=True)
    ]
    words = [f"right={rights[0]}", f"left={lefts[0]}", f"left={lefts[1]}", f"right={rights[1]}"]
    done = deploytool("run", str(run.bundle), *words, "--top", "2", "--json")
    assert done.returncode == 0, done.stderr
    guesses = json.loads(done.stdout)["result"]["guesses"]
    assert [guess["picture"] for guess in guesses] == [
        f"left={left} right={right}" for left, right in zip(lefts, rights, strict=True)
    ]
    for guess, (scores,) in zip(guesses, expected, strict=True):
        assert guess["scores"] == pytest.approx(sorted(scores, reverse=True), abs=1e-6)
    for wrong, problem in (
        ([str(lefts[0])], "does not say which of left, right it is for"),
        ([f"left={lefts[0]}"], "different numbers of images: 1 for left, 0 for right"),
    ):
        with pytest.raises(BadInput, match=problem):
            device_inputs.pictures(list(map(Path, wrong)), manifest)
    with device.open(str(run.bundle)) as model:
        answer = model({"right": rights[0], "left": np.asarray(Image.open(lefts[0]))})
        np.testing.assert_allclose(answer, expected[0], atol=1e-6)
        assert np.abs(model({"left": rights[0], "right": lefts[0]}) - expected[0]).max() > 1e-4
        with pytest.raises(BadInput, match="takes an image for each of left, right"):
            model(lefts[0])
        with pytest.raises(BadInput, match="takes left, right, not left"):
            model({"left": lefts[0]})


def test_images_of_a_bundle_that_are_swapped_are_noticed(run: deploytool.Run, tmp_path: Path) -> None:
    """Even in a bundle whose digests are right, as if the export had swapped them."""
    assert run.bundle
    bundle = shutil.copytree(run.bundle, tmp_path / "bundle")
    manifest = read_manifest(bundle)
    one, other = bundle / manifest.golden.further[0].images[0], bundle / manifest.golden.further[0].images[1]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    files = tuple(describe_file(bundle, file.path, file.role) for file in manifest.files)
    write_manifest(bundle, replace(manifest, files=files))
    with (
        pytest.raises(NotVerified, match="preprocessing the golden image of right gives another tensor"),
        device.open(str(bundle)),
    ):
        pass


def test_a_csv_file_with_pixels_as_inputs(data: Path) -> None:
    pairs = list(zip(items(data, "left"), items(data, "right"), strict=True))[:4]
    lines = [",".join(str(path.relative_to(data)) for path in pair) for pair in pairs]
    table = data / "items.csv"
    table.write_text("left,right,label\n" + "".join(f"{line},{number % 2}\n" for number, line in enumerate(lines)))
    out = data / "bytes"
    deploytool.export(MODEL, **MADE, data=table, io="uint8", layout="NHWC", to="onnx", out=out).check()
    sample = golden.read(out / "golden" / "golden.npz")
    assert sample.labels.tolist() == [0, 1, 0, 1]
    for name, size in SIZES.items():
        assert sample.inputs[name].dtype == np.uint8
        expected = np.stack([tensor(path, size) for path in items(data, name)[:4]]).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(sample.inputs[name], (expected * 255).round().astype(np.uint8))


def test_a_changed_image_of_a_csv_file_is_other_data(tmp_path: Path) -> None:
    image = fill(tmp_path, "a.png", "b.png") / "b.png"
    (tmp_path / "items.csv").write_text("left,right\na.png,b.png\n")
    before = plan._data(tmp_path / "items.csv")
    assert plan._data(tmp_path / "items.csv") == before
    image.write_bytes(b"another")
    assert plan._data(tmp_path / "items.csv").digest != before.digest


def test_data_that_is_no_item_is_refused_in_one_line(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no folder left, and the image inputs are left, right"):
        deploytool.export(MODEL, **MADE, data=data / "pairs" / "left", to="onnx", out=tmp_path / "run")
