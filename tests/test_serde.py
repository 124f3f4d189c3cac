from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass, field
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


def test_a_value_is_decoded_to_an_equal_one() -> None:
    assert serde.decode(Outer, json.loads(serde.text(OUTER))) == OUTER


def test_other_documents_are_refused() -> None:
    others: list[object] = [{}, [], {"colour": "blue"}, {**json.loads(serde.text(OUTER)), "inner": 3}]
    for data in others:
        with pytest.raises(serde.Malformed):
            serde.decode(Outer, data)


def test_values_without_a_json_form_are_refused() -> None:
    with pytest.raises(TypeError, match="PosixPath cannot be encoded as JSON"):
        serde.encode({"path": Path("x")})
    with pytest.raises(ValueError, match="JSON compliant"):
        serde.text(float("nan"))


def test_a_digest_depends_on_values_and_their_order_but_not_on_the_order_of_keys() -> None:
    assert serde.digest({"a": 1, "b": 2}) == serde.digest({"b": 2, "a": 1})
    assert len({serde.digest(*values) for values in ((1, 2), (2, 1), (12,), ("1", 2), ([1], 2))}) == 5


def test_the_digest_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    assert serde.file_digest(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@dataclass(frozen=True)
class Scalars:
    text: str
    count: int
    share: float
    sure: bool
    either: int | str | None
    numbers: Mapping[str, float]


VALID: dict[str, object] = {
    **{"text": "a", "count": 1, "share": 1, "sure": True, "either": None},
    "numbers": {"a": 0.5},
}


def test_an_integer_is_decoded_as_a_float() -> None:
    assert serde.decode(Scalars, VALID).share == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("text", 5, "text is 5, and should be a string"),
        ("count", True, "count is True, and should be an integer"),
        ("count", 1.5, "count is 1.5, and should be an integer of 64 bits"),
        ("count", 2**63, "count is 9223372036854775808, and should be an integer of 64 bits"),
        ("count", -(10**400), "count is -1000.*, and should be an integer of 64 bits"),
        ("share", "0.5", "share is '0.5', and should be a number"),
        ("share", float("inf"), "share is inf, and should be a number"),
        ("share", 10**400, "share is 1000.*, and should be a number"),
        ("sure", 1, "sure is 1, and should be true or false"),
        ("either", 1.5, "either is 1.5, and should be an integer of 64 bits or a string or null"),
        ("numbers", [["a", 1]], "numbers is .*, and should be an object"),
        ("numbers", {"a": None}, "numbers.a is None, and should be a number"),
    ],
)
def test_the_error_for_a_wrong_type_names_the_field(field: str, value: object, message: str) -> None:
    with pytest.raises(serde.Malformed, match=message):
        serde.decode(Scalars, {**VALID, field: value})


@pytest.mark.parametrize(
    ("raw", "message"),
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
def test_invalid_json_is_refused(raw: str | bytes, message: str) -> None:
    with pytest.raises(serde.Malformed, match=message):
        serde.loads(raw, 10 if len(raw) == 11 else serde.MAX_BYTES)


def test_a_value_that_is_nested_too_deep_is_refused() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(serde.Malformed, match="nested too deep"):
        serde.decode(Scalars, {**VALID, "text": deep})
    while deep:  # frees the lists one by one: freeing them at once would recurse
        deep = deep.pop()  # type: ignore[assignment]


def test_a_file_that_is_too_long_is_not_read_completely(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(serde.Malformed, match="longer than 100 bytes"):
            serde.read(Scalars, tmp_path / "file", 100)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_control_characters_in_a_key_are_escaped() -> None:
    with pytest.raises(serde.Malformed) as caught:
        serde.decode(Scalars, {**VALID, "numbers": {"\x1b[32mpass\n": "x"}})
    assert str(caught.value).isprintable()


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(VALID)), inner, max_size=6),
    max_leaves=12,
)


@given(ANY_JSON)
def test_any_value_is_decoded_or_refused(data: object) -> None:
    try:
        value = serde.decode(Scalars, data)
    except serde.Malformed:
        return
    assert serde.decode(Scalars, serde.encode(value)) == value


@dataclass(frozen=True)
class Shade:
    colour: Colour | None


def test_an_optional_enum() -> None:
    assert serde.decode(Shade, {"colour": "red"}).colour is Colour.RED
    assert serde.decode(Shade, {"colour": None}).colour is None
    with pytest.raises(serde.Malformed, match="colour is 'mauve', and should be one of red or null"):
        serde.decode(Shade, {"colour": "mauve"})


def test_a_field_that_earlier_versions_lack_has_its_default() -> None:
    @dataclass(frozen=True)
    class Later:
        name: str
        added: int = field(default=3, metadata={"optional": True})

    assert serde.decode(Later, {"name": "a"}) == Later("a", 3)
    assert serde.decode(Later, {"name": "a", "added": 4}) == Later("a", 4)
    with pytest.raises(serde.Malformed, match="name is missing"):
        serde.decode(Later, {"added": 4})


def test_an_omitted_field_is_written_only_with_another_value_than_its_default() -> None:
    @dataclass(frozen=True)
    class Newest:
        name: str
        added: int = field(default=3, metadata={"optional": True, "omitted": True})
        more: Mapping[str, str] = field(default_factory=dict, metadata={"optional": True, "omitted": True})

    assert serde.encode(Newest("a")) == {"name": "a"}
    assert serde.encode(Newest("a", 4)) == {"name": "a", "added": 4}
    assert serde.encode(Newest("a", more={"b": "c"})) == {"name": "a", "more": {"b": "c"}}
    for value in (Newest("a"), Newest("a", 4)):
        assert serde.decode(Newest, serde.encode(value)) == value
