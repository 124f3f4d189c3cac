"""Images are read upright and complete or refused, and resized as an independent computation does."""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from deploytool.data import images
from deploytool.data.images import Pixels
from deploytool.errors import BadInput
from deploytool.spec import ImageSize, Preprocessing

STORED = {  # how a camera stores an upright image, by EXIF orientation
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def picture(height: int = 12, width: int = 20) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(folder: Path, image: Image.Image, name: str = "picture.png") -> Path:
    image.save(folder / name)
    return folder / name


@pytest.mark.parametrize("orientation", STORED)
def test_a_picture_is_turned_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](picture()))
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(images.read(tmp_path / "turned.png"), picture())
    assert images.stored_size(tmp_path / "turned.png") == stored.shape[:2]


@pytest.mark.parametrize(("name", "tolerance"), [("a.png", 0), ("a.bmp", 0), ("a.tif", 0), ("a.ppm", 0), ("a.jpg", 20)])
def test_a_colour_picture_keeps_its_colours(name: str, tolerance: int, tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(picture(2, 3)).resize((48, 32), Image.Resampling.BICUBIC))
    got = images.read(saved(tmp_path, Image.fromarray(smooth), name))
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - smooth).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_becomes_three_equal_channels(mode: str, tmp_path: Path) -> None:
    grey = Image.fromarray(picture()).convert(mode)
    got = images.read(saved(tmp_path, grey))
    np.testing.assert_array_equal(got, np.repeat(np.asarray(grey.convert("L"))[..., None], 3, axis=2))


def test_sixteen_bit_grey_is_rounded_and_not_clipped(tmp_path: Path) -> None:
    grey = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    got = images.read(saved(tmp_path, Image.fromarray(grey)))
    np.testing.assert_array_equal(got[0, :, 0], [0, 0, 1, 1, 128, 255])


def test_palette_and_cmyk_become_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    for name, image in {"palette.png": red.convert("P"), "cmyk.tif": red.convert("CMYK")}.items():
        np.testing.assert_array_equal(images.read(saved(tmp_path, image, name)), np.asarray(red))


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 99, 99, 99])
    palette.putpixel((1, 0), 1)
    palette.info["transparency"] = 1
    for name, image in {"rgba.png": Image.fromarray(rgba), "palette.png": palette}.items():
        got = images.read(saved(tmp_path, image, name))
        assert got.tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.gif", "a.bmp"])
def test_a_truncated_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(picture(40, 50)), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with pytest.raises(BadInput, match=f"{path.name} cannot be read as a picture"):
        images.read(path)


def declared(width: int, height: int) -> bytes:
    """A PPM that declares this size, and has no pixel of it."""
    return f"P6 {width} {height} 255\n".encode()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cannot identify"),
        (b"not a picture at all", "cannot identify"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "cannot identify"),
        (declared(10_000, 10_000), "exceeds limit"),
        (declared(60_000, 60_000), "exceeds limit"),
        (declared(1, 10_000), "one side is more than 100 times the other"),
    ],
    ids=["empty", "text", "postscript", "large", "huge", "a line"],
)
def test_a_file_that_is_no_image_or_too_large_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(BadInput, match=rf"odd\.png cannot be read as a picture: .*{why}"):
        images.read(tmp_path / "odd.png")


def test_pixels_without_a_known_white_are_refused(tmp_path: Path) -> None:
    floats = saved(tmp_path, Image.fromarray(np.zeros((4, 4), np.float32)), "floats.tif")
    wide = saved(tmp_path, Image.fromarray(np.full((4, 4), 70_000, np.int32)), "wide.tif")
    for path in (floats, wide, tmp_path / "missing.png"):
        with pytest.raises(BadInput, match=path.name):
            images.read(path)


def triangle(size: int, resized: int) -> npt.NDArray[np.float64]:
    """Bilinear resizing of one side, as a matrix: each new pixel is a mean weighted by nearness."""
    scale = size / resized
    centres = (np.arange(resized) + 0.5) * scale
    distances = np.abs(np.arange(size) + 0.5 - centres[:, None]) / max(scale, 1.0)
    weights = np.maximum(0, 1 - distances)
    matrix: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return matrix


@pytest.mark.parametrize(
    ("height", "width", "resize", "crop"), [(90, 141, 40, 32), (141, 90, 40, 32), (20, 30, 48, 48)]
)
def test_bilinear_resizing_equals_a_matrix_product(height: int, width: int, resize: int, crop: int) -> None:
    (photo,) = images.dead_leaves(1, height, width, seed=3)
    tall, wide = resize * height // min(height, width), resize * width // min(height, width)
    whole = np.einsum("ih,hwc,jw->ijc", triangle(height, tall), photo.astype(float), triangle(width, wide))
    top, left = round((tall - crop) / 2), round((wide - crop) / 2)
    got = images.fit(photo, Preprocessing(resize=resize, crop=crop))
    assert got.shape == (crop, crop, 3)
    assert np.abs(got - whole[top : top + crop, left : left + crop]).max() < 1.01  # two roundings to whole numbers


@pytest.mark.parametrize("name", ["area", "box"])
def test_area_interpolation_is_the_mean_of_the_covered_pixels(name: str) -> None:
    photo = picture(24, 40)
    means = photo.reshape(8, 3, -1, 40, 3).mean(axis=(1, 2))  # rows only: 24 = 8 × 3
    means = means[:, :39].reshape(8, 13, 3, 3).mean(axis=2)
    got = images.fit(photo[:, :39], Preprocessing(resize=8, crop=8, interpolation=name))
    assert np.abs(got - means[:, 2:10]).max() <= 1  # (13 - 8) / 2 rounds to 2


def test_nearest_interpolation_copies_pixels() -> None:
    photo = picture(12, 12)
    got = images.fit(photo, Preprocessing(resize=4, crop=4, interpolation="nearest"))
    np.testing.assert_array_equal(got, photo[1::3, 1::3])


@pytest.mark.parametrize("name", images.INTERPOLATIONS)
def test_an_image_of_the_right_size_is_unchanged(name: str) -> None:
    asked = Preprocessing(resize=20, crop=20, interpolation=name)
    np.testing.assert_array_equal(images.fit(picture(20, 20), asked), picture(20, 20))


def test_an_unknown_interpolation_is_refused() -> None:
    with pytest.raises(BadInput, match="no interpolation 'cubical'"):
        images.fit(picture(), replace(Preprocessing(), interpolation="cubical"))


@pytest.mark.parametrize("crop", [13, (12, 21), (13, 20)])
def test_an_image_smaller_than_the_crop_is_refused(crop: ImageSize) -> None:
    with pytest.raises(BadInput, match="a picture of 12 × 20 is smaller than the"):
        images.fit(picture(12, 20), Preprocessing(resize=0, crop=crop))


@pytest.mark.parametrize("size", [(0, 4), (4, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match="the picture has no pixels"):
        images.fit(picture(*size), Preprocessing())


def test_a_photograph_becomes_an_input() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="its sample photographs are needed")
    photo = datasets.load_sample_image("china.jpg")
    jpeg = io.BytesIO()
    Image.fromarray(photo).save(jpeg, "JPEG", quality=95)
    usual = Preprocessing()
    batch = images.normalise(images.fit(photo, usual)[None], usual)
    assert batch.shape == (1, 3, 224, 224)
    assert -2.2 < batch.min() < batch.max() < 2.7


def test_a_written_image_is_read_back_unchanged(tmp_path: Path) -> None:
    pixels = images.dead_leaves(1, 20, 30, 0)[0]
    images.write(tmp_path / "a.png", pixels)
    assert np.array_equal(images.read(tmp_path / "a.png"), pixels)


def test_a_synthetic_image_equals_discs_painted_one_after_the_other() -> None:
    height, width, rng = 37, 61, np.random.default_rng(4)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    palette = rng.uniform(0, 255, 3)
    scene = np.broadcast_to(palette, (height, width, 3)).astype(np.float32)
    for radius in np.minimum(width * 0.025 / np.sqrt(rng.uniform(0, 1, 800)), width / 2):
        y, x = rng.uniform(-radius, height + radius), rng.uniform(-radius, width + radius)
        colour = 0.5 * palette + 0.5 * rng.uniform(0, 255, 3) + rng.normal(0, 25)
        scene[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = colour
    slope = rng.uniform(-0.3, 0.3, 2)
    light = rng.uniform(0.7, 1.1) + slope[0] * (rows / height - 0.5) + slope[1] * (columns / width - 0.5)
    painted = (scene * light[..., None] + rng.normal(0, 4, scene.shape)).clip(0, 255).round()
    np.testing.assert_array_equal(images.dead_leaves(1, height, width, seed=4)[0], painted)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_an_image_read_in_strips_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, orientation: int
) -> None:
    grey = Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)
    image = grey if mode == "I;16" else Image.fromarray(picture()).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "picture.tif", exif=exif)
    whole = images.read(tmp_path / "picture.tif")
    monkeypatch.setattr(images, "_STRIP", 50)
    assert np.array_equal(images.read(tmp_path / "picture.tif"), whole)
    background = (
        Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")) if "A" in mode else image
    )
    stored = np.repeat(picture()[..., :1], 3, axis=2) if mode == "I;16" else np.array(background.convert("RGB"))
    assert np.array_equal(whole, stored if orientation == 1 else np.rot90(stored, -1))


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MAX_PIXELS", 200 * 200)
    Image.new("RGB", (200, 200)).save(tmp_path / "plain.png")
    assert images.read(tmp_path / "plain.png").shape == (200, 200, 3)
    Image.new("RGB", (201, 200)).save(tmp_path / "bomb.png")
    for reader in (images.read, images.stored_size):
        with pytest.raises(BadInput, match="decompression bomb: 201 × 200 pixels"):
            reader(tmp_path / "bomb.png")
    Image.new("RGB", (150, 100)).save(tmp_path / "bomb.webp")
    with pytest.raises(BadInput, match="decompression bomb: 150 × 100 pixels"):
        images.read(tmp_path / "bomb.webp")
    Image.fromarray(picture(201, 200)).save(tmp_path / "photograph.png")
    assert images.read(tmp_path / "photograph.png").shape == (201, 200, 3)


def test_reading_an_image_takes_little_more_memory_than_its_pixels(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1500), "red").save(tmp_path / "picture.png")
    tracemalloc.start()
    try:
        assert images.read(tmp_path / "picture.png").nbytes == 9_000_000
        assert tracemalloc.get_traced_memory()[1] < 2 * 9_000_000
    finally:
        tracemalloc.stop()
