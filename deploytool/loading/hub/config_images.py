"""Converts the configuration of an image processor or of timm, as plain data, to a `Preprocessing`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deploytool.spec import ImageSize, Preprocessing

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}  # numbers of Pillow
_IMAGENET = Preprocessing()


def of_processor(processor: Mapping[str, Any], size: tuple[int, int]) -> Preprocessing:
    """The preprocessing of an image processor of transformers for images of this height and width.

    Without a configuration the usual preprocessing is assumed.
    """
    if not processor:
        return Preprocessing(resize=size, crop=_side(size), assumed=True)
    normalises = processor.get("do_normalize") is not False
    mean, std = (_numbers(processor.get(key)) for key in ("image_mean", "image_std"))
    scale = processor.get("rescale_factor") or _IMAGENET.scale
    crops = processor.get("do_center_crop") is not False and "crop_size" in processor
    return Preprocessing(
        resize=_resize(processor, size) if crops else size,
        crop=_side(size),
        interpolation=_RESAMPLING.get(processor.get("resample", 2), "bilinear"),
        channels="BGR" if processor.get("do_flip_channel_order") else "RGB",
        scale=1.0 if processor.get("do_rescale") is False else float(scale),
        mean=(mean or _IMAGENET.mean) if normalises else (0.0,),
        std=(std or _IMAGENET.std) if normalises else (1.0,),
    )


def of_timm(config: Mapping[str, Any], size: tuple[int, int]) -> Preprocessing:
    """The preprocessing of a timm configuration: resized to the size divided by `crop_pct`, then cropped."""
    share = config.get("crop_pct") or 0.875
    wide = config.get("crop_mode") == "squash" or size[0] != size[1]
    sides = tuple(math.floor(side / share) for side in size)
    interpolation = config.get("interpolation") or "bicubic"
    return Preprocessing(
        resize=(sides[0], sides[1]) if wide else sides[0],
        crop=_side(size),
        interpolation=interpolation if interpolation in _RESAMPLING.values() else "bicubic",
        mean=_numbers(config.get("mean")) or _IMAGENET.mean,
        std=_numbers(config.get("std")) or _IMAGENET.std,
    )


def classes(labels: Any) -> tuple[str, ...]:
    """The class names of an `id2label`, in order; none if it numbers them only, as `LABEL_0`."""
    if not isinstance(labels, Mapping):
        return ()
    try:
        names = {int(number): str(name) for number, name in labels.items()}
    except ValueError:
        return ()
    if sorted(names) != list(range(len(names))) or all(name.startswith("LABEL_") for name in names.values()):
        return ()
    return tuple("".join(sign if sign.isprintable() else "?" for sign in names[number]) for number in sorted(names))


def _resize(processor: Mapping[str, Any], size: tuple[int, int]) -> ImageSize:
    """The size before the centre crop: one length for the shorter side, or height and width."""
    if processor.get("do_resize") is False:
        return 0
    stated = processor.get("size")
    if isinstance(stated, Mapping):
        if isinstance(stated.get("height"), int) and isinstance(stated.get("width"), int):
            return stated["height"], stated["width"]
        stated = stated.get("shortest_edge")
    return max(stated, min(size)) if isinstance(stated, int) else size


def _side(size: tuple[int, int]) -> ImageSize:
    return size[0] if size[0] == size[1] else size


def _numbers(values: Any) -> tuple[float, ...]:
    """One number, or one for each of three channels; empty for anything else."""
    if isinstance(values, (int, float)):
        return (float(values),)
    if not isinstance(values, (list, tuple)) or len(values) not in (1, 3):
        return ()
    return tuple(float(value) for value in values)
