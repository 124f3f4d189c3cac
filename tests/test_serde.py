from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool import serde


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
    assert serde.decode(Outer, json.loads(serde.text(OUTER))) == OUTER


def test_something_else_is_refused() -> None:
    others: list[object] = [{}, [], {"colour": "blue"}, {**json.loads(serde.text(OUTER)), "inner": 3}]
    for data in others:
        with pytest.raises(serde.Malformed):
            serde.decode(Outer, data)


def test_what_has_no_plain_form_is_refused() -> None:
    with pytest.raises(TypeError, match="PosixPath cannot be encoded as JSON"):
        serde.encode({"path": Path("x")})
    with pytest.raises(ValueError, match="JSON compliant"):
        serde.text(float("nan"))


def test_a_digest_follows_content_and_order_of_values_but_not_of_names() -> None:
    assert serde.digest({"a": 1, "b": 2}) == serde.digest({"b": 2, "a": 1})
    assert len({serde.digest(*values) for values in ((1, 2), (2, 1), (12,), ("1", 2), ([1], 2))}) == 5


def test_a_file_digest_follows_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    assert serde.file_digest(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@dataclass(frozen=True)
class Leaves:
    text: str
    count: int
    share: float
    sure: bool
    either: int | str | None
    numbers: Mapping[str, float]


GOOD: dict[str, object] = {
    **{"text": "a", "count": 1, "share": 1, "sure": True, "either": None},
    "numbers": {"a": 0.5},
}


def test_a_whole_number_will_do_for_any_other() -> None:
    assert serde.decode(Leaves, GOOD).share == 1


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("text", 5, "text is 5, and should be a string"),
        ("count", True, "count is True, and should be an integer"),
        ("count", 1.5, "count is 1.5, and should be an integer"),
        ("share", "0.5", "share is '0.5', and should be a number"),
        ("share", float("inf"), "share is inf, and should be a number"),
        ("share", 10**400, "share is 1000.*, and should be a number"),
        ("sure", 1, "sure is 1, and should be true or false"),
        ("either", 1.5, "either is 1.5, and should be an integer or a string or null"),
        ("numbers", [["a", 1]], "numbers is .*, and should be an object"),
        ("numbers", {"a": None}, "numbers.a is None, and should be a number"),
    ],
)
def test_a_leaf_of_another_type_is_refused_by_its_place(field: str, value: object, said: str) -> None:
    with pytest.raises(serde.Malformed, match=said):
        serde.decode(Leaves, {**GOOD, field: value})


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("[" * 100_000, "nested too deep"),
        ("[" * 101 + "]" * 101, "nested too deep"),
        ('{"notes": {"all": -1e999}}', "-1e999 is not a finite number"),
        ('{"a": NaN}', "NaN is not a finite number"),
        ('{"a": 1, "a": 2}', "a duplicate key"),
        ("9" * 10_000, "not JSON"),
        ("{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (" " * 11, "longer than 10 bytes"),
    ],
)
def test_what_is_no_document_is_refused(raw: str | bytes, said: str) -> None:
    with pytest.raises(serde.Malformed, match=said):
        serde.loads(raw, 10 if len(raw) == 11 else serde.MAX_BYTES)


def test_what_is_nested_deeper_than_one_can_show_is_refused() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(serde.Malformed, match="nested too deep"):
        serde.decode(Leaves, {**GOOD, "text": deep})
    while deep:  # one after the other: to free them at once would go as deep
        deep = deep.pop()  # type: ignore[assignment]


def test_no_more_of_a_file_is_read_than_a_document_may_have(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as opened:
        opened.truncate(64 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(serde.Malformed, match="longer than 100 bytes"):
            serde.read(Leaves, tmp_path / "file", 100)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_name_that_would_write_on_the_terminal_is_shown_escaped() -> None:
    with pytest.raises(serde.Malformed) as caught:
        serde.decode(Leaves, {**GOOD, "numbers": {"\x1b[32mpass\n": "x"}})
    assert str(caught.value).isprintable()


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(GOOD)), inner, max_size=6),
    max_leaves=12,
)


@given(ANY)
def test_whatever_comes_is_decoded_or_refused(data: object) -> None:
    try:
        found = serde.decode(Leaves, data)
    except serde.Malformed:
        return
    assert serde.decode(Leaves, serde.encode(found)) == found


@dataclass(frozen=True)
class Shade:
    colour: Colour | None


def test_a_word_or_nothing_is_one_of_its_words_or_nothing() -> None:
    assert serde.decode(Shade, {"colour": "red"}).colour is Colour.RED
    assert serde.decode(Shade, {"colour": None}).colour is None
    with pytest.raises(serde.Malformed, match="colour is 'mauve', and should be one of red or null"):
        serde.decode(Shade, {"colour": "mauve"})
