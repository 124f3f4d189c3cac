"""Compares calibration data with the golden cases: constant cases, noise, and another normalisation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deploytool.backends.session import Array
from deploytool.data.golden import Arrays
from deploytool.precision.int8.calibration_fault import CalibrationFault, Finding
from deploytool.spec import Preprocessing

_SIDE = 8  # an axis at least so long can be one of space or time, a shorter one is channels
_MANY = 0.25  # share of constant cases
_STRUCTURED, _NOISE = 0.3, 0.1  # correlation of neighbours: 0.9 and more in pictures, 0 in noise
_WHITE = 255
_OFF, _ON = 0.05, 0.001  # shares of values that are no pixels: with another normalisation, and with the right one
_PIXEL_ERRORS = {"float32": 0.02, "float16": 0.25, "float64": 0.02}  # of a pixel, by rounding of its normalised value
_FACTOR = 4.0  # between the deviations of cases that are no pictures, or shift of their mean in deviations


def find(calibration: Arrays, golden: Arrays, how: Preprocessing) -> Iterator[Finding]:
    """At most one fault for each input; what a later check would say of the same input follows from it."""
    for name, array in calibration.items():
        reference = golden[name]
        if reason := _zeros(array, reference):
            yield Finding(CalibrationFault.ZEROS, name, reason)
        elif reason := _noise(array, reference):
            yield Finding(CalibrationFault.RANDOM_DATA, name, reason)
        elif reason := _normalisation(array, reference, how):
            yield Finding(CalibrationFault.WRONG_NORMALISATION, name, reason)


def _zeros(array: Array, reference: Array) -> str:
    constant, usual = _constant_share(array), _constant_share(reference)
    if constant < _MANY or usual >= _MANY:
        return ""
    return f"{constant:.0%} of the calibration cases have no variation, and {usual:.0%} of the golden cases"


def _constant_share(array: Array) -> float:
    """The share of cases whose values do not vary along the long axes; 0 if a case is a single number."""
    axes = _long_axes(array) or tuple(range(1, array.ndim))
    if not axes:
        return 0.0
    return float(np.mean((array.max(axes) == array.min(axes)).reshape(len(array), -1).all(1)))


def _noise(array: Array, reference: Array) -> str:
    found, usual = _correlation(array), _correlation(reference)
    if usual < _STRUCTURED or found >= _NOISE:
        return ""
    return f"neighbouring values have a correlation of {found:.2f}, and {usual:.2f} in the golden cases"


def _correlation(array: Array) -> float:
    """The correlation of neighbours along the long axis that has the highest; 0 without such an axis."""
    values = array.astype(np.float64)
    found = [0.0]
    for axis in _long_axes(array):
        lines = np.moveaxis(values, axis, -1).reshape(len(values), -1, values.shape[axis])
        lines = lines - lines.mean((1, 2), keepdims=True)
        power = (lines**2).mean((1, 2))
        shifted = (lines[..., 1:] * lines[..., :-1]).mean((1, 2))
        found.append(float(np.mean(shifted[power > 0] / power[power > 0])) if (power > 0).any() else 0.0)
    return max(found)


def _long_axes(array: Array) -> tuple[int, ...]:
    return tuple(axis for axis in range(1, array.ndim) if array.shape[axis] >= _SIDE)


def _normalisation(array: Array, reference: Array, how: Preprocessing) -> str:
    """Why the normalisation differs: values are no pixels, or are spread otherwise where golden cases are none."""
    if array.dtype.kind != "f":
        return ""
    usual = _no_pixels(reference, how)
    if usual is not None and usual < _ON:
        share = _no_pixels(array, how)
        assert share is not None
        return f"{share:.0%} of the values are no pixels (0 to {_WHITE}) before normalisation" if share > _OFF else ""
    (mean, deviation), (usual_mean, usual_deviation) = (_spread(values) for values in (array, reference))
    if not usual_deviation:
        return ""
    is_scaled = not 1 / _FACTOR < deviation / usual_deviation < _FACTOR
    if is_scaled or abs(mean - usual_mean) > _FACTOR * usual_deviation:
        golden = f"{usual_mean:.3g} ± {usual_deviation:.3g}"
        return f"the values are {mean:.3g} ± {deviation:.3g}, and {golden} in the golden cases"
    return ""


def _no_pixels(array: Array, how: Preprocessing) -> float | None:
    """The share of values that no 8-bit pixel becomes by the preprocessing; None if the shape is not that of images."""
    axis = 1 if how.layout == "NCHW" else array.ndim - 1
    if array.ndim != 4 or array.shape[axis] not in (1, 3):
        return None
    if any(len(numbers) not in (1, array.shape[axis]) for numbers in (how.mean, how.std)):
        return None
    shape = [1, -1, 1, 1] if axis == 1 else [1, 1, 1, -1]
    mean, std = (np.array(numbers, np.float64).reshape(shape) for numbers in (how.mean, how.std))
    pixels = (array.astype(np.float64) * std + mean) / how.scale
    nearest = np.rint(pixels)
    far = np.abs(pixels - nearest) > _PIXEL_ERRORS.get(array.dtype.name, _PIXEL_ERRORS["float32"])
    return float(np.mean(far | (nearest < 0) | (nearest > _WHITE)))


def _spread(values: Array) -> tuple[float, float]:
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
