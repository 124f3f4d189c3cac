from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from deploytool import plain


class Colour(str, Enum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int | str, ...]
    pair: tuple[float, float]


@dataclass(frozen=True)
class Outer:
    colour: Colour
    inner: Inner
    maybe: Inner | None
    many: tuple[Inner, ...]
    words: Mapping[str, str]


INNER = Inner(("batch", 3), (0.5, 1.5))
OUTER = Outer(Colour.RED, INNER, None, (INNER, INNER), {"a": "b"})


def test_what_is_encoded_comes_back_equal() -> None:
    assert plain.decode(Outer, json.loads(plain.text(OUTER))) == OUTER


def test_something_else_is_refused() -> None:
    others: list[object] = [{}, [], {"colour": "blue"}, {**json.loads(plain.text(OUTER)), "inner": 3}]
    for data in others:
        with pytest.raises((TypeError, KeyError, ValueError)):
            plain.decode(Outer, data)


def test_what_has_no_plain_form_is_refused() -> None:
    with pytest.raises(TypeError, match="PosixPath has no plain form"):
        plain.encode({"path": Path("x")})
    with pytest.raises(ValueError, match="JSON compliant"):
        plain.text(float("nan"))


def test_a_digest_follows_content_and_order_of_values_but_not_of_names() -> None:
    assert plain.digest({"a": 1, "b": 2}) == plain.digest({"b": 2, "a": 1})
    assert len({plain.digest(*values) for values in ((1, 2), (2, 1), (12,), ("1", 2), ([1], 2))}) == 5


def test_a_file_digest_follows_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    assert plain.file_digest(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
