"""The options of an export that say what the model is and how images become its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from deploytool.data.preprocess import CROP
from deploytool.pipeline.declaration import Declaration
from deploytool.spec import ImageSize, Option, Preprocessing, Range, Tensor

Span: TypeAlias = Range | int | tuple[int, int, int]  # one size, or (smallest, typical, largest)
Inputs: TypeAlias = Sequence[Tensor | tuple[int | str, ...]]

_MODEL, _PREPROCESSING = "Model", "Preprocessing"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The part of `ExportOptions` about the model and its preprocessing."""

    seed: Annotated[int, Declaration(_MODEL, "Seed of random weights and of the golden images.", least=0)] = 0
    weights: Annotated[
        str | Path | None, Declaration(_MODEL, "A checkpoint: .safetensors, .pth or .pt.", metavar="FILE")
    ] = None
    trust_code: Annotated[bool, Declaration(_MODEL, "Load checkpoints that can run code.")] = False
    inputs: Annotated[
        Inputs,
        Declaration(
            _MODEL,
            "An input without its batch: [NAME=]3x224x224[:DTYPE[:BELOW]], with mask or range for BELOW; "
            "NAME=:DTYPE is one number per case; NAME.0 and NAME.1 form a list.",
            metavar="SHAPE",
            flag="input",
        ),
    ] = ()
    sizes: Annotated[
        Mapping[str, Span | Sequence[Range]] | None,
        Declaration(
            _MODEL,
            "The range of a dynamic dimension of an input; engines have a profile for each range of one dimension.",
            metavar="WORD=RANGE",
            flag="size",
        ),
    ] = None
    outputs: Annotated[
        str | Sequence[str],
        Declaration(
            _MODEL, "Outputs to export, separated by commas; by default all of them.", metavar="NAME,…", flag="output"
        ),
    ] = ()
    arguments: Annotated[
        Mapping[str, Option] | None,
        Declaration(_MODEL, "An argument of the model's factory.", metavar="NAME=VALUE", flag="arg"),
    ] = None
    forward: Annotated[
        Mapping[str, Option] | None,
        Declaration(
            _MODEL, "An argument of the model's forward that is no input, such as a flag.", metavar="NAME=VALUE"
        ),
    ] = None
    preprocess: Annotated[
        str | None,
        Declaration(
            _PREPROCESSING, "A preset for preprocessing: imagenet, or none for pixels from 0 to 255.", metavar="NAME"
        ),
    ] = None
    mean: Annotated[
        float | Sequence[float] | None,
        Declaration(
            _PREPROCESSING, "The mean to subtract from scaled pixels: one number, or one per channel.", metavar="N,…"
        ),
    ] = None
    std: Annotated[
        float | Sequence[float] | None,
        Declaration(
            _PREPROCESSING, "The standard deviation to divide by: one number, or one per channel.", metavar="N,…"
        ),
    ] = None
    scale: Annotated[
        float | None,
        Declaration(
            _PREPROCESSING, "The factor that pixels from 0 to 255 are multiplied by.", metavar="N", usual="1/255"
        ),
    ] = None
    channels: Annotated[
        str | None,
        Declaration(_PREPROCESSING, "The order of the colour channels: RGB or BGR.", metavar="ORDER", usual="RGB"),
    ] = None
    resize: Annotated[
        ImageSize | None,
        Declaration(
            _PREPROCESSING,
            "Resize images to this shorter side or HEIGHTxWIDTH; none leaves their size.",
            metavar="SIZE",
        ),
    ] = None
    crop: Annotated[
        ImageSize | None,
        Declaration(
            _PREPROCESSING, "Crop the centre of images to SIDE or HEIGHTxWIDTH; none crops nothing.", metavar="SIZE"
        ),
    ] = None
    fit: Annotated[
        str | None,
        Declaration(
            _PREPROCESSING,
            "How images get the input's size: crop cuts; letterbox and letterbox-corner pad; within keeps the ratio.",
            metavar="NAME",
            usual=CROP,
        ),
    ] = None
    pad: Annotated[
        int | None,
        Declaration(
            _PREPROCESSING,
            "The value of padding, before scale, mean and std.",
            metavar="N",
            least=0,
            most=255,
            usual=str(Preprocessing.pad),
        ),
    ] = None
    interpolation: Annotated[
        str | None,
        Declaration(
            _PREPROCESSING,
            "How to resize: nearest, bilinear, bicubic, area, lanczos, or opencv for cv2.INTER_LINEAR.",
            metavar="NAME",
        ),
    ] = None
    layout: Annotated[
        str | None,
        Declaration(
            _PREPROCESSING, "The layout of the input: NCHW, or NHWC for channels last.", metavar="ORDER", usual="NCHW"
        ),
    ] = None
