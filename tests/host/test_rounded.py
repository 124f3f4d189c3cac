"""Two numbers that are compared never read alike."""

from __future__ import annotations

import pytest

from deploytool.host import disk, rounded


def scientific(value: float, digits: int) -> str:
    return f"{value:.{digits}e}"


@pytest.mark.parametrize(
    ("value", "limit", "written"),
    [
        (8.24e-3, 8.16e-3, ("8.24e-03", "8.16e-03")),
        (8.2041e-3, 8.2039e-3, ("8.2041e-03", "8.2039e-03")),
        (2e-3, 8e-3, ("2.0e-03", "8.0e-03")),
        (8e-3, 8e-3, ("8.0e-03", "8.0e-03")),
    ],
)
def test_as_many_digits_are_shown_as_tell_them_apart(value: float, limit: float, written: tuple[str, str]) -> None:
    assert rounded.apart(value, limit, scientific, 1) == written


def test_neighbours_in_floating_point_differ() -> None:
    first, second = rounded.apart(0.1, 0.1 + 2**-56, scientific, 1)
    assert first != second


def test_what_no_digits_tell_apart_ends() -> None:
    assert rounded.apart(1e301, 1e302, lambda value, digits: "not finite", 1) == ("not finite", "not finite")


def test_bytes_that_are_compared_differ() -> None:
    assert disk.sizes(2.14e9, 2.11e9) == ("2.14 GB", "2.11 GB")
    assert disk.sizes(150.2e6, 150.4e6) == ("150.2 MB", "150.4 MB")
    assert disk.sizes(2e9, 3e9) == ("2.0 GB", "3.0 GB")
