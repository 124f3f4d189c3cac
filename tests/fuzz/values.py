"""Documents that somebody tampered with: bytes, words, and every value of JSON where another belongs."""

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
        "deploytool.bundle.manifest/3",
        "subprocess:check_output",
        "os:system",
        "fp16",
        "cpu",
    ),
)
_WORDS = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "0x10", "01", "'a'", "[1,]", "nul", "\t")


def value(rng: random.Random, most: int = 10) -> Any:
    """Anything that JSON can hold, and rather what hurts."""
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
    """Every container of a document with every key or place in it."""
    found: list[tuple[Any, Any]] = []
    todo = [data]
    while todo:
        each = todo.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each)) if isinstance(each, list) else ()
        for key in keys:
            found.append((each, key))
            todo.append(each[key])
    return found


def edited(data: Any, rng: random.Random) -> Any:
    """One to three edits of values; the document stays JSON."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        spots = places(data)
        if not spots or rng.random() < 0.02:
            return value(rng)
        holder, key = rng.choice(spots)
        _edit(holder, key, rng)
    return data


def _edit(holder: Any, key: Any, rng: random.Random) -> None:
    kind = rng.randrange(9)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(TEXTS)] = value(rng)
    elif kind == 1:
        holder.insert(key, rng.choice((holder[key], value(rng))))
    elif kind == 2 and isinstance(holder, dict):
        holder[rng.choice((key.upper(), f"{key} ", f"{key}\0", "__class__", "е" + key[1:]))] = holder.pop(key)
    elif kind == 3 and isinstance(holder[key], (int, float)):
        holder[key] = rng.choice((holder[key] + 1, -holder[key], holder[key] * 10**9, str(holder[key]), [holder[key]]))
    elif kind == 4 and isinstance(holder[key], str):
        holder[key] = rng.choice((holder[key][:-1], holder[key] * 2, holder[key].upper(), f"../{holder[key]}", "", 7))
    elif kind == 5 and isinstance(holder[key], (list, dict)):
        holder[key] = rng.choice((list(holder[key]) * 200 if len(holder[key]) < 50 else [], {}, [], None))
    else:
        holder[key] = value(rng)


def text(data: Any) -> bytes:
    """A document as deploytool writes it; what no JSON can say is said as Python says it."""
    try:
        return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError):
        return b"[" * 5000


def spoiled(raw: bytes, rng: random.Random) -> bytes:
    """A text with its bytes or words changed: cut, flipped, doubled, with a name twice, with what is no number."""
    kind, at = rng.randrange(12), rng.randrange(len(raw) or 1)
    if kind == 0:
        return raw[:at]
    if kind in (1, 2):
        made = bytearray(raw or b"x")
        for _ in range(rng.choice((1, 1, 3, 20))):
            made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
        return bytes(made)
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
        return _twice(raw, rng)
    if kind == 8:
        return raw.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-7")), "replace")
    if kind == 9:
        return raw[:at] + b"[" * rng.choice((10, 2000, 100_000)) + raw[at:]
    return _worded(raw, rng)


def _twice(raw: bytes, rng: random.Random) -> bytes:
    lines = raw.split(b"\n")
    at = rng.randrange(len(lines))
    again = lines[at] if lines[at].endswith(b",") else lines[at] + b","
    return b"\n".join([*lines[:at], again, *lines[at:]])


def _worded(raw: bytes, rng: random.Random) -> bytes:
    """A value replaced by a word."""
    parts = raw.split(b": ")
    at = rng.randrange(len(parts))
    head, comma, rest = parts[at].partition(b",")
    parts[at] = rng.choice(_WORDS).encode() + comma + rest if comma else head + rng.choice(_WORDS).encode()
    return b": ".join(parts)


def tampered(raw: bytes, rng: random.Random) -> bytes:
    """A document of JSON that somebody tampered with, in its values or in its bytes."""
    if rng.random() < 0.35:
        return spoiled(raw, rng)
    return text(edited(json.loads(raw), rng))
