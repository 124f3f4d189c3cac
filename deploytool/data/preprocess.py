"""How pictures become a model's input: what a user states of it, what is left to a default, and what makes no sense."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from deploytool.errors import BadInput
from deploytool.spec import Model, Preprocessing, Range, Side, Tensor

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area", "box", "lanczos")
CHANNELS, LAYOUTS, PRESETS = ("RGB", "BGR"), ("NCHW", "NHWC"), ("imagenet", "none")
MAX_SIDE = 4096  # pixels of a side that a definition may ask for
_NUMBERS = ("scale", "mean", "std")
_FULL = 255.0


@dataclass(frozen=True)
class StatedPreprocessing:
    """What a user says of the preprocessing, each None where nothing was said.

    `preset` is `imagenet`, or `none` for pixels as they come, from 0 to 255. Of `mean`, `std` and `scale`, what is left
    out where another of them is given is 0, 1 and 1/255. A `resize` or `crop` of 0 leaves the picture as it is.
    """

    preset: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    channels: str | None = None
    resize: Side | None = None
    crop: Side | None = None
    interpolation: str | None = None
    layout: str | None = None

    def said(self) -> tuple[str, ...]:
        """The words that were said, in the order of the fields."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)


def resolve(model: Model, stated: StatedPreprocessing, sizes: Mapping[str, Range]) -> Model:
    """The model with its preprocessing as stated, at the size of its image inputs; `sizes` are the ranges of free ones.

    A free size is prepared at its typical one, unless a crop says otherwise. Raises BadInput for what contradicts the
    model, itself, or good sense.
    """
    _check_words(stated)
    how = _numbers(model.preprocessing, stated)
    geometry = ("channels", "interpolation", "layout")
    how = replace(how, **{name: getattr(stated, name) for name in geometry if getattr(stated, name) is not None})
    if stated.layout is None:
        how = replace(how, layout=_layout(model.inputs, how.layout))
    how = replace(how, stated=_stated(stated))
    images = how.images(model.inputs)
    if not images:
        if stated.said():
            problem = f"{model.name} takes no images, and --{_option(stated.said()[0])} is about images"
            raise BadInput(problem, _remedy(model, how))
        return model
    if all(tensor.dtype == "uint8" for tensor in images):
        how = _of_bytes(how, stated, images[0])
    how = _sized(model, how, stated, images[0], sizes)
    _check_channels(how, stated, images)
    return replace(model, preprocessing=how)


def _check_words(stated: StatedPreprocessing) -> None:
    """Raises BadInput for a word that is no choice, and for a number that cannot be meant."""
    choices = {"preset": PRESETS, "channels": CHANNELS, "layout": LAYOUTS, "interpolation": INTERPOLATIONS}
    for name, known in choices.items():
        value = getattr(stated, name)
        if value is not None and value not in known:
            raise BadInput(f"--{_option(name)} {value} is none we know", f"choose from {', '.join(known)}")
    said = stated.said()
    if stated.preset and set(said) & set(_NUMBERS):
        other = next(name for name in said if name in _NUMBERS)
        raise BadInput(f"--preprocess {stated.preset} and --{other} say the same thing", "leave out one of them")
    for name in ("mean", "std"):
        numbers = getattr(stated, name)
        if numbers is not None and (len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers))):
            problem = f"--{name} {_text(numbers)} is not one number a channel"
            raise BadInput(problem, f"write one for all channels, or three: --{name} 0.5,0.5,0.5")
    if stated.std is not None and min(stated.std) <= 0:
        raise BadInput(f"--std {_text(stated.std)} cannot be divided by", "write numbers above 0: --std 1")
    if stated.scale is not None and not (math.isfinite(stated.scale) and stated.scale > 0):
        raise BadInput(f"--scale {stated.scale:g} is no factor for pixels", "write 1, 1/255 or another above 0")
    if stated.scale is None and stated.mean is not None and max(map(abs, stated.mean)) > 1:
        problem = f"--mean {_text(stated.mean)} lies beyond the pixels, which are from 0 to 1 unless --scale says else"
        raise BadInput(problem, "write --scale 1 too, for pixels from 0 to 255")


def _numbers(usual: Preprocessing, stated: StatedPreprocessing) -> Preprocessing:
    """The arithmetic: a preset's, or what was stated and for the rest what changes nothing."""
    if stated.preset == "imagenet":
        whole = Preprocessing()
        return replace(usual, scale=whole.scale, mean=whole.mean, std=whole.std, assumed=False)
    if stated.preset == "none":
        return replace(usual, scale=1.0, mean=(0.0,), std=(1.0,), assumed=False)
    if not set(stated.said()) & set(_NUMBERS):
        return usual
    scale = 1 / _FULL if stated.scale is None else stated.scale
    return replace(usual, scale=scale, mean=stated.mean or (0.0,), std=stated.std or (1.0,), assumed=False)


def _stated(stated: StatedPreprocessing) -> tuple[str, ...]:
    """The fields of the preprocessing that the user's words decide."""
    said = set(stated.said())
    if said & {"preset", *_NUMBERS}:
        said = said - {"preset"} | set(_NUMBERS)
    return tuple(field.name for field in fields(Preprocessing) if field.name in said)


def _layout(inputs: Sequence[Tensor], usual: str) -> str:
    """Bytes whose channels can only be the last are as a camera has them; floats are never guessed at."""
    told = [tensor for tensor in inputs if tensor.dtype == "uint8"]
    last = any(tensor.plane("NHWC") and not tensor.plane("NCHW") for tensor in told)
    return "NHWC" if last else usual


def _of_bytes(how: Preprocessing, stated: StatedPreprocessing, tensor: Tensor) -> Preprocessing:
    for name in (name for name in stated.said() if name in _NUMBERS or (name, stated.preset) == ("preset", "imagenet")):
        problem = f"{tensor.name} takes bytes, and --{_option(name)} makes other numbers of the pixels"
        raise BadInput(problem, f"leave --{_option(name)} out, or declare {tensor.name} as float32")
    return replace(how, scale=1.0, mean=(0.0,), std=(1.0,), assumed=False)


def _sized(
    model: Model, how: Preprocessing, stated: StatedPreprocessing, tensor: Tensor, sizes: Mapping[str, Range]
) -> Preprocessing:
    """The preprocessing at the size of an image input: as stated, else in the proportion it had.

    Where the input is no square, or the picture is kept whole, nothing is cut off unless it was stated.
    """
    plane = tensor.plane(how.layout)
    assert plane is not None
    if not all(isinstance(side, int) or side in sizes for side in plane):
        return how  # nobody has said yet how large it is
    ranges = tuple(Range(side, side, side) if isinstance(side, int) else sizes[side] for side in plane)
    typical = (ranges[0].typical, ranges[1].typical)
    crop = pair(stated.crop) if stated.crop is not None else typical
    if crop == (0, 0):
        _check_whole(model, plane)
    elif not all(each.smallest <= side <= each.largest for side, each in zip(crop, ranges, strict=True)):
        takes = " × ".join(_range(each) for each in ranges)
        raise BadInput(
            f"--crop {_side(stated.crop or crop)} is not what {model.name} takes: {takes}",
            "leave --crop out, or mend it",
        )
    resize: Side
    if stated.resize is not None:
        resize = stated.resize
    elif crop == (0, 0):
        resize = 0
    elif crop[0] != crop[1] or isinstance(how.crop, tuple) or isinstance(how.resize, tuple) or not how.crop:
        resize = crop
    else:
        resize = round(crop[0] * how.resize / how.crop)
    _check_enough(resize, crop)
    return replace(how, resize=resize, crop=crop[0] if crop[0] == crop[1] else crop)


def _check_whole(model: Model, plane: tuple[int | str, int | str]) -> None:
    if all(isinstance(side, int) for side in plane):
        takes = _side((int(plane[0]), int(plane[1])))
        raise BadInput(f"--crop none keeps pictures of any size, and {model.name} takes {takes}", "leave --crop out")


def _check_enough(resize: Side, crop: tuple[int, int]) -> None:
    """Raises BadInput if there is a side too short to be cut: a shorter side that must hold the longer of the crop."""
    if min(pair(resize)) < 0 or min(crop) < 0 or max(*pair(resize), *crop) > MAX_SIDE:
        raise BadInput(
            f"there are no pictures of {_side(resize)}, cut to {_side(crop)}", f"write sides up to {MAX_SIDE}"
        )
    if not resize or crop == (0, 0):
        return
    height, width = pair(resize) if isinstance(resize, tuple) else (resize, resize)
    if height < crop[0] or width < crop[1]:
        problem = f"the crop of {_side(crop)} is larger than what --resize {_side(resize)} leaves"
        raise BadInput(problem, f"write a larger one, or the whole size: --resize {_side(crop)}")


def _check_channels(how: Preprocessing, stated: StatedPreprocessing, images: Sequence[Tensor]) -> None:
    for tensor in images:
        channels = tensor.channels(how.layout)
        for name in ("mean", "std"):
            numbers = getattr(how, name)
            if len(numbers) not in (1, channels):
                problem = f"--{name} {_text(numbers)} is of {len(numbers)} channels, and {tensor.name} has {channels}"
                raise BadInput(problem, "write one number")
        if channels == 1 and stated.channels:
            raise BadInput(
                f"--channels {stated.channels} is of three channels, and {tensor.name} has one", "leave it out"
            )


def _remedy(model: Model, how: Preprocessing) -> str:
    """What may help where no input is an image: another layout, or numbers for the grey of one channel."""
    other = "NHWC" if how.layout == "NCHW" else "NCHW"
    if any(tensor.plane(other) for tensor in model.inputs):
        return f"is it --layout {other}?"
    if any(tensor.plane(how.layout) for tensor in model.inputs):
        return "say what becomes of grey pixels: --mean 0 --std 1 makes them 0 to 1, and --preprocess none leaves them"
    return "leave it out, or declare an image: --input 3x224x224"


def merged(theirs: Preprocessing, ours: Preprocessing) -> Preprocessing:
    """The preprocessing that weights want, at our size, and with what a user stated of ours."""
    kept = ("resize", "crop", "layout", "stated", *ours.stated)
    return replace(theirs, assumed=False, **{name: getattr(ours, name) for name in kept})


def pair(side: Side) -> tuple[int, int]:
    """Height and width of a side; of one length, the square of it."""
    return side if isinstance(side, tuple) else (side, side)


def is_valid(how: Preprocessing) -> bool:
    """Whether a preprocessing that somebody sent can be carried out."""
    return (
        all(0 <= side <= MAX_SIDE for side in (*pair(how.crop), *pair(how.resize)))
        and {len(how.mean), len(how.std)} <= {1, 3}
        and min(how.std) > 0
        and all(map(math.isfinite, (how.scale, *how.mean, *how.std)))
        and how.channels in CHANNELS
        and how.layout in LAYOUTS
    )


def size_problem(shape: Sequence[int], tensor: Tensor, free: Mapping[str, Range]) -> str | None:
    """What of a shape, its batch aside, an input does not take; None if it takes all of it."""
    if len(shape) != len(tensor.shape):
        return f"{len(shape)} dimensions, and not {len(tensor.shape)}"
    for size, side in zip(shape[1:], tensor.shape[1:], strict=True):
        if isinstance(side, int) and size != side:
            return f"{size}, and not {side}"
        if isinstance(side, str) and side in free and not free[side].smallest <= size <= free[side].largest:
            return f"{size}, and {side} is from {_range(free[side])}"
    return None


def describe(how: Preprocessing, images: Sequence[Tensor]) -> str:
    """All of a preprocessing in one line, and who says so."""
    steps = [f"resized to {_side(how.resize)}" if isinstance(how.resize, tuple) else f"shorter side to {how.resize}"]
    steps = [f"{steps[0]} ({how.interpolation})"] if how.resize else []
    steps += [f"the centre {_side(pair(how.crop))}"] if how.crop else ["at their own size"]
    grey = all(tensor.channels(how.layout) == 1 for tensor in images)
    steps += ["grey" if grey else how.channels, how.layout]
    if all(tensor.dtype == "uint8" for tensor in images):
        return f"pictures: {', '.join(steps)}, bytes as they come"
    scale = f"pixel / {1 / how.scale:g}" if how.scale < 1 else f"pixel × {how.scale:g}" if how.scale > 1 else "pixel"
    steps.append(f"({scale} - mean) / std with mean {_text(how.mean)} and std {_text(how.std)}")
    if how.assumed:
        who = "ImageNet's, assumed, for nobody stated another: --mean, --std, --scale, or --preprocess none"
    else:
        who = "as stated" if how.stated else "as the model says"
    return f"pictures: {', '.join(steps)}: {who}"


def _range(each: Range) -> str:
    return f"{each.smallest}" if each.smallest == each.largest else f"{each.smallest} to {each.largest}"


def _side(side: Side) -> str:
    return "x".join(map(str, side)) if isinstance(side, tuple) else str(side or "none")


def _text(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def _option(name: str) -> str:
    return "preprocess" if name == "preset" else name
