"""The image inputs of a model that takes images only: each has the preprocessing of the model at its own size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deploytool.data import images, preprocess
from deploytool.data.images import Inputs, Pixels
from deploytool.data.preprocess import CROP, WITHIN, pair
from deploytool.errors import BadInput
from deploytool.spec import ImageSize, Preprocessing, Range, Tensor


@dataclass(frozen=True)
class ImageInput:
    """An image input, and how an image gets its size."""

    tensor: Tensor
    how: Preprocessing

    def fit(self, pixels: Pixels) -> Pixels:
        """An image (uint8 HWC) at the size of the input; raises BadInput if it is smaller than the crop."""
        return images.fit(pixels, self.how)

    def normalise(self, pixels: Pixels) -> Inputs:
        """The input for fitted images (uint8 NHWC)."""
        return images.normalise(pixels, self.how, self.tensor)

    def size_problem(self, fitted: Pixels, sizes: Mapping[str, Range]) -> str | None:
        """Why the input does not accept a fitted image (uint8 HWC); None if it does."""
        shape = [side if isinstance(side, int) else 0 for side in self.tensor.shape]
        first = self.how.layout.index("H")
        shape[first : first + 2] = fitted.shape[:2]
        return preprocess.size_problem(shape, self.tensor, sizes)


def find(inputs: Sequence[Tensor], how: Preprocessing, sizes: Mapping[str, Range]) -> tuple[ImageInput, ...]:
    """The inputs in their order, each with its preprocessing; none unless all of them are images.

    `how` is the preprocessing of the first one; `sizes` are the ranges of dynamic dimensions.
    """
    if not inputs or how.images(inputs) != tuple(inputs):
        return ()
    return tuple(ImageInput(tensor, _at_size(how, tensor, inputs[0], sizes)) for tensor in inputs)


def _at_size(how: Preprocessing, tensor: Tensor, first: Tensor, sizes: Mapping[str, Range]) -> Preprocessing:
    """The preprocessing `how` of the first input at the size of another, of which the same share is cut off.

    A dynamic size is the typical one. Where the ratio of height to width differs and images are resized by their
    shorter side, the image gets the size of the input and nothing is cut off.
    """
    plane = tensor.image_size(how.layout)
    assert plane is not None
    if plane == first.image_size(how.layout) or (how.fit == CROP and how.crop_size == (0, 0)):
        return how
    high, wide = (sizes[side].typical if isinstance(side, str) else side for side in plane)
    size: ImageSize = high if high == wide else (high, wide)
    if how.fit != CROP:
        return replace(how, resize=size, crop=0 if how.fit == WITHIN else size)
    resize = _resized(how, high, wide)
    if max(pair(resize)) > preprocess.MAX_SIDE:
        problem = f"images for {tensor.name} would be resized to {max(pair(resize))} pixels"
        raise BadInput(problem, "export with a --resize that is closer to the size of the first input")
    return replace(how, resize=resize, crop=size)


def _resized(how: Preprocessing, high: int, wide: int) -> ImageSize:
    """The size before a crop of `high` × `wide`."""
    crop_high, crop_wide = how.crop_size
    if isinstance(how.resize, tuple):
        return round(how.resize[0] * high / crop_high), round(how.resize[1] * wide / crop_wide)
    if not how.resize:
        return 0
    return round(how.resize * high / crop_high) if high * crop_wide == wide * crop_high else (high, wide)
