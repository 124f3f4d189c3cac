"""Tampers with JSON documents: replaces values by others and corrupts bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

_HUGE = 10**400
NUMBERS: Sequence[Any] = (
    *(0, -1, 1, 2**31, 2**31 - 1, 2**63, 2**64 + 1, -(2**63), 10**18, _HUGE, 0.5, -0.0, 1e308, -1e308, 5e-324, 1e-300),
    *(True, False, None),
)
TEXTS: Sequence[str] = (
    *("", "a", "..", "../../etc/passwd", "/etc/passwd", "golden/../../x", "a//b", "a\0b", ".", "con", "x" * 5000),
    *("\x1b[31mred\x1b[0m", "a\nb: deploytool: all is well", "\u202egnp.exe", "\ud800", "ＡＢ", "e\u0301", "\u00e9"),
    *("0", "-1", "NaN", "1e999", "true", "%s%n", "${HOME}", "$(id)", "`id`", "<script>alert(1)</script>", "{{7*7}}"),
    *(
        "\u200b",
        "\ufeff",
        "\x7f",
        "deploytool.bundle/3",
        "subprocess:check_output",
        "os:system",
        "fp16",
        "cpu",
    ),
)
_WORDS = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "0x10", "01", "'a'", "[1,]", "nul", "\t")


def value(rng: random.Random, most: int = 10) -> Any:
    """A random JSON value, mostly an edge case; `most` limits its kind (7: scalars only)."""
    kind = rng.randrange(most)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind < 7:
        return rng.choice(TEXTS)
    if kind == 7:
        return [value(rng, 7) for _ in range(rng.choice((0, 1, 2, 3, 100)))]
    if kind == 8:
        return {rng.choice(TEXTS): value(rng, 7) for _ in range(rng.choice((0, 1, 3)))}
    deep: Any = rng.choice(NUMBERS)
    for _ in range(rng.choice((3, 50, 900, 3000))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    return deep


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every container of a document with each of its keys or indices."""
    positions: list[tuple[Any, Any]] = []
    pending = [data]
    while pending:
        container = pending.pop()
        keys = (
            list(container)
            if isinstance(container, dict)
            else range(len(container))
            if isinstance(container, list)
            else ()
        )
        for key in keys:
            positions.append((container, key))
            pending.append(container[key])
    return positions


def edit_values(data: Any, rng: random.Random) -> Any:
    """Makes one to three edits; the document stays JSON."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        positions = places(data)
        if not positions or rng.random() < 0.02:
            return value(rng)
        container, key = rng.choice(positions)
        _edit(container, key, rng)
    return data


def _edit(container: Any, key: Any, rng: random.Random) -> None:
    kind = rng.randrange(9)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[rng.choice(TEXTS)] = value(rng)
    elif kind == 1:
        container.insert(key, rng.choice((container[key], value(rng))))
    elif kind == 2 and isinstance(container, dict):
        container[rng.choice((key.upper(), f"{key} ", f"{key}\0", "__class__", "е" + key[1:]))] = container.pop(key)
    elif kind == 3 and isinstance(container[key], (int, float)):
        container[key] = rng.choice(
            (container[key] + 1, -container[key], container[key] * 10**9, str(container[key]), [container[key]])
        )
    elif kind == 4 and isinstance(container[key], str):
        container[key] = rng.choice(
            (container[key][:-1], container[key] * 2, container[key].upper(), f"../{container[key]}", "", 7)
        )
    elif kind == 5 and isinstance(container[key], (list, dict)):
        container[key] = rng.choice((list(container[key]) * 200 if len(container[key]) < 50 else [], {}, [], None))
    else:
        container[key] = value(rng)


def to_json(data: Any) -> bytes:
    """A document in deploytool's format; deep nesting if it cannot be encoded."""
    try:
        return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError):
        return b"[" * 5000


def corrupt(raw: bytes, rng: random.Random) -> bytes:
    """Corrupts a text: truncates it, flips bits, inserts bytes, duplicates a line, changes its encoding or a value."""
    kind, at = rng.randrange(12), rng.randrange(len(raw) or 1)
    if kind == 0:
        return raw[:at]
    if kind in (1, 2):
        changed = bytearray(raw or b"x")
        for _ in range(rng.choice((1, 1, 3, 20))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 3:
        return raw + rng.choice((b"\0", b"{}", b" ", b"\n\n", b"\xef\xbb\xbf", raw))
    if kind == 4:
        deep = (b"[" * 100_000, b'{"a":' * 9000)
        return rng.choice((b"", b"null", b"[]", b"{}", b"\xff\xfe{}", b"\xef\xbb\xbf" + raw, *deep))
    if kind == 5:
        return raw[:at] + rng.randbytes(rng.choice((1, 8, 64))) + raw[at:]
    if kind == 6:
        return raw.replace(b"\n", b"\r\n")
    if kind == 7:
        return _duplicate_line(raw, rng)
    if kind == 8:
        return raw.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-7")), "replace")
    if kind == 9:
        return raw[:at] + b"[" * rng.choice((10, 2000, 100_000)) + raw[at:]
    return _replace_value(raw, rng)


def _duplicate_line(raw: bytes, rng: random.Random) -> bytes:
    lines = raw.split(b"\n")
    at = rng.randrange(len(lines))
    duplicate = lines[at] if lines[at].endswith(b",") else lines[at] + b","
    return b"\n".join([*lines[:at], duplicate, *lines[at:]])


def _replace_value(raw: bytes, rng: random.Random) -> bytes:
    """Replaces a value by invalid JSON."""
    parts = raw.split(b": ")
    at = rng.randrange(len(parts))
    head, comma, rest = parts[at].partition(b",")
    parts[at] = rng.choice(_WORDS).encode() + comma + rest if comma else head + rng.choice(_WORDS).encode()
    return b": ".join(parts)


def tamper(raw: bytes, rng: random.Random) -> bytes:
    """Tampers with a JSON document, in its values or in its bytes."""
    if rng.random() < 0.35:
        return corrupt(raw, rng)
    return to_json(edit_values(json.loads(raw), rng))
