"""Resolves and validates the preprocessing of images: what the user states, and the defaults for the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from deploytool.errors import BadInput
from deploytool.spec import ImageSize, Model, Preprocessing, Range, Tensor

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area", "box", "lanczos", "opencv")
FITS = CROP, LETTERBOX, CORNER, WITHIN = "crop", "letterbox", "letterbox-corner", "within"
CHANNELS, LAYOUTS, PRESETS = ("RGB", "BGR"), ("NCHW", "NHWC"), ("imagenet", "none")
MAX_SIDE = 4096  # pixels
_NUMBERS = ("scale", "mean", "std")
_WHITE = 255.0


@dataclass(frozen=True)
class StatedPreprocessing:
    """The preprocessing options that the user states; None for those not stated.

    `preset` is `imagenet`, or `none` for unscaled pixels from 0 to 255. If one of `mean`, `std` and `scale` is stated,
    the others default to 0, 1 and 1/255. A `resize` or `crop` of 0 keeps the size of the image.
    """

    preset: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    channels: str | None = None
    resize: ImageSize | None = None
    crop: ImageSize | None = None
    interpolation: str | None = None
    layout: str | None = None
    fit: str | None = None
    pad: int | None = None

    def stated_options(self) -> tuple[str, ...]:
        """The names of the stated options, in field order."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)


def resolve(model: Model, stated: StatedPreprocessing, sizes: Mapping[str, Range]) -> Model:
    """The model with the stated preprocessing, at the size of its image inputs.

    `sizes` are the ranges of dynamic dimensions, of which the typical size is used unless a crop is stated. Raises
    BadInput for invalid values, and for options that contradict each other or the model.
    """
    _check_values(stated)
    how = _numbers(model.preprocessing, stated)
    kept = ("channels", "interpolation", "layout", "fit", "pad")
    how = replace(how, **{name: getattr(stated, name) for name in kept if getattr(stated, name) is not None})
    if stated.layout is None:
        how = replace(how, layout=_layout(model.inputs, how.layout))
    how = replace(how, stated=_stated(stated))
    images = how.images(model.inputs)
    if not images:
        if stated.stated_options():
            problem = f"--{_option(stated.stated_options()[0])} needs an image input, and {model.name} has none"
            raise BadInput(problem, image_remedy(model, how))
        return model
    if all(tensor.dtype == "uint8" for tensor in images):
        how = _for_bytes(how, stated, images[0])
    how = _sized(model, how, stated, images[0], sizes)
    _check_channels(how, stated, images)
    return replace(model, preprocessing=how)


def _check_values(stated: StatedPreprocessing) -> None:
    """Raises BadInput for an unknown choice, and for numbers out of range."""
    choices = {"preset": PRESETS, "channels": CHANNELS, "layout": LAYOUTS, "interpolation": INTERPOLATIONS, "fit": FITS}
    for name, known in choices.items():
        value = getattr(stated, name)
        if value is not None and value not in known:
            raise BadInput(f"invalid value {value} for --{_option(name)}", f"choose from {', '.join(known)}")
    if stated.pad is not None and not 0 <= stated.pad <= _WHITE:
        raise BadInput(f"--pad {stated.pad} is not a pixel", "write a number from 0 to 255")
    names = stated.stated_options()
    if stated.preset and set(names) & set(_NUMBERS):
        other = next(name for name in names if name in _NUMBERS)
        raise BadInput(f"--preprocess {stated.preset} and --{other} are mutually exclusive", "leave one of them out")
    for name in ("mean", "std"):
        numbers = getattr(stated, name)
        if numbers is not None and (len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers))):
            problem = f"--{name} {_text(numbers)} is not one number per channel"
            raise BadInput(problem, f"write one for all channels, or three: --{name} 0.5,0.5,0.5")
    if stated.std is not None and min(stated.std) <= 0:
        raise BadInput(f"--std {_text(stated.std)} must be positive", "write numbers above 0: --std 1")
    if stated.scale is not None and not (math.isfinite(stated.scale) and stated.scale > 0):
        raise BadInput(
            f"--scale {stated.scale:g} is not a valid factor for pixels", "write 1, 1/255 or another above 0"
        )
    if stated.scale is None and stated.mean is not None and max(map(abs, stated.mean)) > 1:
        problem = f"--mean {_text(stated.mean)} is outside the range of pixels, which is 0 to 1 without --scale"
        raise BadInput(problem, "write --scale 1 too, for pixels from 0 to 255")


def _numbers(default: Preprocessing, stated: StatedPreprocessing) -> Preprocessing:
    """Scale, mean and std: those of a preset, or those stated with neutral values for the rest."""
    if stated.preset == "imagenet":
        imagenet = Preprocessing()
        return replace(default, scale=imagenet.scale, mean=imagenet.mean, std=imagenet.std, assumed=False)
    if stated.preset == "none":
        return replace(default, scale=1.0, mean=(0.0,), std=(1.0,), assumed=False)
    if not set(stated.stated_options()) & set(_NUMBERS):
        return default
    scale = 1 / _WHITE if stated.scale is None else stated.scale
    return replace(default, scale=scale, mean=stated.mean or (0.0,), std=stated.std or (1.0,), assumed=False)


def _stated(stated: StatedPreprocessing) -> tuple[str, ...]:
    """The fields of the preprocessing that the stated options determine."""
    names = set(stated.stated_options())
    if names & {"preset", *_NUMBERS}:
        names = names - {"preset"} | set(_NUMBERS)
    return tuple(field.name for field in fields(Preprocessing) if field.name in names)


def _layout(inputs: Sequence[Tensor], default: str) -> str:
    """NHWC for a uint8 input whose channels can only be the last axis; otherwise the default."""
    byte_inputs = [tensor for tensor in inputs if tensor.dtype == "uint8"]
    last = any(tensor.image_size("NHWC") and not tensor.image_size("NCHW") for tensor in byte_inputs)
    return "NHWC" if last else default


def _for_bytes(how: Preprocessing, stated: StatedPreprocessing, tensor: Tensor) -> Preprocessing:
    """The preprocessing of a uint8 input, which gets unscaled pixels; raises BadInput for options that scale them."""
    for name in (
        name for name in stated.stated_options() if name in _NUMBERS or (name, stated.preset) == ("preset", "imagenet")
    ):
        problem = f"--{_option(name)} does not apply to {tensor.name}, which is a uint8 input"
        raise BadInput(problem, f"leave --{_option(name)} out, or declare {tensor.name} as float32")
    return replace(how, scale=1.0, mean=(0.0,), std=(1.0,), assumed=False)


def _sized(
    model: Model, how: Preprocessing, stated: StatedPreprocessing, tensor: Tensor, sizes: Mapping[str, Range]
) -> Preprocessing:
    """The preprocessing at the size of an image input: as stated, otherwise with the previous ratio of resize to crop.

    If the input is not square, or keeps the whole image, nothing is cropped unless stated.
    """
    plane = tensor.image_size(how.layout)
    assert plane is not None
    if not all(isinstance(side, int) or side in sizes for side in plane):
        return how  # the size is not known yet
    ranges = tuple(Range(side, side, side) if isinstance(side, int) else sizes[side] for side in plane)
    typical = (ranges[0].typical, ranges[1].typical)
    if how.fit != CROP:
        return _whole(model, how, stated, ranges, typical)
    if stated.pad is not None:
        raise BadInput(f"--pad {stated.pad} is for a letterbox, and this crops", f"add --fit {LETTERBOX}")
    crop = pair(stated.crop) if stated.crop is not None else typical
    if crop == (0, 0):
        _check_whole(model, plane)
    elif not all(limits.smallest <= side <= limits.largest for side, limits in zip(crop, ranges, strict=True)):
        valid = " × ".join(map(_range, ranges))
        raise BadInput(
            f"--crop {_side(stated.crop or crop)} is outside the input size of {model.name}: {valid}",
            "leave --crop out, or give a size within the range",
        )
    resize: ImageSize
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


def _whole(
    model: Model, how: Preprocessing, stated: StatedPreprocessing, ranges: Sequence[Range], typical: tuple[int, int]
) -> Preprocessing:
    """The preprocessing that keeps the whole image, at the stated size or the typical one."""
    if stated.crop:
        problem = f"--crop {_side(stated.crop)} cuts pixels off, and --fit {how.fit} keeps the whole picture"
        raise BadInput(problem, f"state the size as --resize {_side(stated.crop)}, or leave one of them out")
    if how.fit == WITHIN and all(limits.smallest == limits.largest for limits in ranges):
        problem = f"--fit {WITHIN} needs a dynamic input size, and {model.name} takes {_side(typical)}"
        raise BadInput(problem, f"use --fit {LETTERBOX}, which fills the rest")
    if how.fit == WITHIN and stated.pad is not None:
        raise BadInput(f"--pad {stated.pad} is for a letterbox, and --fit {WITHIN} adds nothing", "leave it out")
    box = typical if stated.resize is None else pair(stated.resize)
    if not all(limits.smallest <= side <= limits.largest for side, limits in zip(box, ranges, strict=True)):
        valid = " × ".join(map(_range, ranges))
        size = _side(box if stated.resize is None else stated.resize)
        problem = f"--resize {size} is outside the input size of {model.name}: {valid}"
        raise BadInput(problem, "leave --resize out, or give a size within the range")
    _check_enough(box, box)
    new = box[0] if box[0] == box[1] else box
    return replace(how, resize=new, crop=0 if how.fit == WITHIN else new)


def _check_whole(model: Model, plane: tuple[int | str, int | str]) -> None:
    if all(isinstance(side, int) for side in plane):
        size = _side((int(plane[0]), int(plane[1])))
        raise BadInput(f"--crop none needs a dynamic input size, and {model.name} takes {size}", "leave --crop out")


def _check_enough(resize: ImageSize, crop: tuple[int, int]) -> None:
    """Raises BadInput if a size is out of range, or if the crop is larger than the resized image."""
    if min(pair(resize)) < 0 or min(crop) < 0 or max(*pair(resize), *crop) > MAX_SIDE:
        raise BadInput(
            f"image size out of range: --resize {_side(resize)} --crop {_side(crop)}", f"write sides up to {MAX_SIDE}"
        )
    if not resize or crop == (0, 0):
        return
    height, width = pair(resize) if isinstance(resize, tuple) else (resize, resize)
    if height < crop[0] or width < crop[1]:
        problem = f"the crop of {_side(crop)} is larger than the image after --resize {_side(resize)}"
        raise BadInput(problem, f"write a larger size, or that of the crop: --resize {_side(crop)}")


def _check_channels(how: Preprocessing, stated: StatedPreprocessing, images: Sequence[Tensor]) -> None:
    for tensor in images:
        channels = tensor.channels(how.layout)
        for name in ("mean", "std"):
            numbers = getattr(how, name)
            if len(numbers) not in (1, channels):
                problem = f"--{name} {_text(numbers)} is for {len(numbers)} channels, and {tensor.name} has {channels}"
                raise BadInput(problem, "write one number")
        if channels == 1 and stated.channels:
            raise BadInput(
                f"--channels {stated.channels} is for three channels, and {tensor.name} has one", "leave it out"
            )


def image_remedy(model: Model, how: Preprocessing) -> str:
    """The remedy where no input is an image: another layout, or explicit numbers for one grey channel."""
    other = "NHWC" if how.layout == "NCHW" else "NCHW"
    if any(tensor.image_size(other) for tensor in model.inputs):
        return f"did you mean --layout {other}?"
    if any(tensor.image_size(how.layout) for tensor in model.inputs):
        return "state the range of grey pixels: --mean 0 --std 1 for 0 to 1, --preprocess none for 0 to 255"
    return "leave it out, or declare an image: --input 3x224x224"


def merged(theirs: Preprocessing, ours: Preprocessing) -> Preprocessing:
    """The preprocessing `theirs` of a checkpoint, at the size of `ours` and with the options stated in `ours`."""
    names = ("resize", "crop", "fit", "pad", "layout", "stated", *ours.stated)
    return replace(theirs, assumed=False, **{name: getattr(ours, name) for name in names})


def pair(side: ImageSize) -> tuple[int, int]:
    """Height and width; a single length gives a square."""
    return side if isinstance(side, tuple) else (side, side)


def is_valid(how: Preprocessing) -> bool:
    """Whether all values of a preprocessing from an untrusted file are in range."""
    return (
        all(0 <= side <= MAX_SIDE for side in (*pair(how.crop), *pair(how.resize)))
        and {len(how.mean), len(how.std)} <= {1, 3}
        and min(how.std) > 0
        and all(map(math.isfinite, (how.scale, *how.mean, *how.std)))
        and how.channels in CHANNELS
        and how.layout in LAYOUTS
        and how.fit in FITS
        and 0 <= how.pad <= _WHITE
        and (how.fit == CROP or min(pair(how.resize)) > 0)
    )


def size_problem(shape: Sequence[int], tensor: Tensor, free: Mapping[str, Range]) -> str | None:
    """Why an input does not accept a shape, ignoring the batch; None if it does."""
    if len(shape) != len(tensor.shape):
        return f"{len(shape)} dimensions, and not {len(tensor.shape)}"
    for size, side in zip(shape[1:], tensor.shape[1:], strict=True):
        if isinstance(side, int) and size != side:
            return f"{size}, and not {side}"
        if isinstance(side, str) and side in free and not free[side].smallest <= size <= free[side].largest:
            return f"{size}, and {side} is from {_range(free[side])}"
    return None


def describe(how: Preprocessing, images: Sequence[Tensor]) -> str:
    """The preprocessing in one line, and its origin."""
    steps = _geometry(how)
    grey = all(tensor.channels(how.layout) == 1 for tensor in images)
    steps += ["grey" if grey else how.channels, how.layout]
    if all(tensor.dtype == "uint8" for tensor in images):
        return f"images: {', '.join(steps)}, pixels unscaled"
    return f"images: {', '.join([*steps, _arithmetic(how)])}: {_origin(how, '--resize, --crop, ')}"


def describe_normalisation(how: Preprocessing, images: Sequence[Tensor]) -> str:
    """What makes images of pixels, in one line, and its origin."""
    steps = [f"{', '.join(tensor.name for tensor in images)} as {how.layout}"]
    steps += [how.channels] if how.channels != Preprocessing.channels else []
    return f"{', '.join([*steps, _arithmetic(how)])}: {_origin(how)}"


def _arithmetic(how: Preprocessing) -> str:
    scale = f"pixel / {1 / how.scale:g}" if how.scale < 1 else f"pixel × {how.scale:g}" if how.scale > 1 else "pixel"
    return f"({scale} - mean) / std with mean {_text(how.mean)} and std {_text(how.std)}"


def _origin(how: Preprocessing, sizes: str = "") -> str:
    """Who says so; `sizes` are the options that state the size of images."""
    if how.assumed:
        return f"assumed, as for ImageNet; to state it, use {sizes}--mean, --std, --scale, or --preprocess none"
    return "as stated" if how.stated else "defined by the model"


def _geometry(how: Preprocessing) -> list[str]:
    """How the size of an image is changed, in words."""
    if how.fit != CROP:
        padding = {LETTERBOX: "padded on both sides", CORNER: "padded on the right and at the bottom"}
        filled = [f"{padding[how.fit]} with {how.pad}"] if how.fit in padding else []
        return [f"scaled to fit into {_side(pair(how.resize))} ({how.interpolation})", *filled]
    step = f"resized to {_side(how.resize)}" if isinstance(how.resize, tuple) else f"shorter side to {how.resize}"
    steps = [f"{step} ({how.interpolation})"] if how.resize else []
    return steps + ([f"the centre {_side(pair(how.crop))}"] if how.crop else ["size unchanged"])


def _range(limits: Range) -> str:
    return f"{limits.smallest}" if limits.smallest == limits.largest else f"{limits.smallest} to {limits.largest}"


def _side(side: ImageSize) -> str:
    return "x".join(map(str, side)) if isinstance(side, tuple) else str(side or "none")


def _text(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def _option(name: str) -> str:
    return "preprocess" if name == "preset" else name
