"""What goes to a terminal: foreign text made visible, in the letters that it has, and no error where nobody takes it.

Names and messages come from strangers' files, registries and machines. Whatever a terminal would obey or hide instead
of showing it is written out, so that no text can colour, move, turn around or forge a line.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
import unicodedata
from contextlib import AbstractContextManager, redirect_stdout, suppress
from typing import IO, Any

from deploytool import serde

_STREAMS = ("stdin", "stdout", "stderr")  # by their numbers
_HANDLER = "deploytool-spelt"
_UNHEARD = 120  # Python's own code for what could not be written out
_SPELT = {"→": "->", "–": "-", "×": "x", "·": "|", "…": "...", "≤": "<="}  # our own signs, for who lacks them


def visible(text: str) -> str:
    r"""The text in one line, with what a terminal obeys or hides written out: `\n`, `\x1b`, `\u202e`."""
    if text.isprintable():
        return text
    return "".join(letter if _shows(letter) else _escaped(letter) for letter in text)


def document(value: object, *, letters: bool = True) -> str:
    """A value as a JSON document in which every text is visible; without `letters`, in ASCII alone."""
    raw = serde.text(value)
    if letters and all(line.isprintable() for line in raw.split("\n")):
        return raw
    return "".join(
        letter if letter == "\n" or (_shows(letter) and (letters or letter.isascii())) else _quoted(letter)
        for letter in raw
    )


def replace_streams() -> None:
    """Makes the streams of this process such that nothing we say can fail; to be called before anything is opened.

    Those that are closed lead nowhere, so that no file of ours gets their numbers. A stream that a caller has put in
    the place of ours is left alone.
    """
    codecs.register_error(_HANDLER, _spelt)
    with suppress(OSError):  # there may be no /dev/null
        _occupy()
    for number, name in enumerate(_STREAMS):
        was = getattr(sys, name)
        if name != "stdin" and was is getattr(sys, f"__{name}__"):
            setattr(sys, name, _Stream(number, was))


def say(line: str) -> None:
    """One line on stdout, whatever is in it."""
    _line(sys.stdout, line)


def note(line: str) -> None:
    """One line on stderr."""
    _line(sys.stderr, line)


def put(value: object) -> None:
    """One JSON document on stdout."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(document(value, letters=encoding.lower().startswith("utf")))
    sys.stdout.flush()


def flush() -> None:
    """Lets out what was said."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a stream that a caller has put in the place of ours
            stream.flush()


def stdout_to_stderr() -> AbstractContextManager[object]:
    """What is printed meanwhile goes to stderr, so that it spoils no document."""
    return redirect_stdout(sys.stderr)


def final_exit_code(code: int) -> int:
    """The exit code when all is said: 120 instead of 0 where stdout could not take it.

    Why not is said on stderr, unless whoever read it has simply left.
    """
    flush()
    failure = sys.stdout.sink.failure if isinstance(sys.stdout, _Stream) else None
    if failure is None:
        return code
    if not isinstance(failure, BrokenPipeError):
        note(f"deploytool: stdout could not be written: {failure.strerror}")
    return code or _UNHEARD


def _line(stream: IO[str], line: str) -> None:
    stream.write(f"{visible(line)}\n")
    stream.flush()


class _Sink(io.FileIO):
    """A descriptor that takes all it is given; from the first failure on, nothing is written any more."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """How many bytes were taken: at least one."""
        try:
            while self.failure is None:
                if (written := super().write(data)) is not None:
                    return written
                select.select((), (self,), ())  # somebody made it non-blocking, and whoever reads is slow
        except OSError as error:
            self.failure = error
        return len(data)


class _Stream(io.TextIOWrapper):
    """Text to a descriptor, spelt where its encoding lacks a letter."""

    def __init__(self, number: int, was: IO[str] | None) -> None:
        self.sink = _Sink(number, "w", closefd=False)
        at_once = was is None or any(getattr(was, name, False) for name in ("line_buffering", "write_through"))
        encoding = getattr(was, "encoding", "utf-8")
        super().__init__(io.BufferedWriter(self.sink), encoding, errors=_HANDLER, line_buffering=at_once)


def _occupy() -> None:
    while (opened := os.open(os.devnull, os.O_RDWR)) < len(_STREAMS):  # gets the lowest number that is free
        os.set_inheritable(opened, True)
    os.close(opened)


def _shows(letter: str) -> bool:
    return letter.isprintable() or unicodedata.category(letter) == "Zs"


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _quoted(letter: str) -> str:
    """As JSON has it, in one or two parts."""
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _spelt(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_SPELT.get(letter) or _escaped(letter) for letter in letters), error.end
