"""Prints to stdout and stderr: escapes control characters, replaces what the encoding lacks, and survives closed pipes.

Names and messages come from foreign files, registries and machines. Characters that a terminal would interpret or hide
are escaped, so that no text can colour, move, reverse or forge a line.
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

_STREAMS = ("stdin", "stdout", "stderr")  # by file descriptor
_HANDLER = "deploytool-replace"
_WRITE_FAILED = 120  # exit code of Python itself if it cannot flush stdout
_ASCII = {"→": "->", "–": "-", "×": "x", "·": "|", "…": "...", "≤": "<="}  # for characters that deploytool prints


def visible(text: str) -> str:
    r"""The text in one line, with control and invisible characters escaped: `\n`, `\x1b`, `\u202e`."""
    if text.isprintable():
        return text
    return "".join(char if _is_visible(char) else _escape(char) for char in text)


def json_document(value: object, *, ascii_only: bool = False) -> str:
    """A value as JSON, with control and invisible characters escaped; `ascii_only` escapes all others too."""
    raw = serde.text(value)
    if not ascii_only and all(line.isprintable() for line in raw.split("\n")):
        return raw
    return "".join(
        char if char == "\n" or (_is_visible(char) and (char.isascii() or not ascii_only)) else _json_escape(char)
        for char in raw
    )


def replace_streams() -> None:
    """Replaces stdout and stderr by streams that raise no errors; must be called before any file is opened.

    Closed standard streams are opened on /dev/null, so that no later file gets their descriptors. A stream that a
    caller has replaced is left alone.
    """
    codecs.register_error(_HANDLER, _replace)
    with suppress(OSError):  # there may be no /dev/null
        _open_closed_descriptors()
    for descriptor, name in enumerate(_STREAMS):
        original = getattr(sys, name)
        if name != "stdin" and original is getattr(sys, f"__{name}__"):
            setattr(sys, name, _Stream(descriptor, original))


def print_stdout(line: str) -> None:
    """Prints one line to stdout, escaped by `visible`."""
    _print(sys.stdout, line)


def print_stderr(line: str) -> None:
    """Prints one line to stderr, escaped by `visible`."""
    _print(sys.stderr, line)


def print_json(value: object) -> None:
    """Prints a value to stdout as a JSON document."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(json_document(value, ascii_only=not encoding.lower().startswith("utf")))
    sys.stdout.flush()


def flush() -> None:
    """Flushes stdout and stderr; ignores errors."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # only a stream that a caller has replaced raises them
            stream.flush()


def stdout_to_stderr() -> AbstractContextManager[object]:
    """Redirects `sys.stdout` to stderr, so that foreign output cannot corrupt a document on stdout."""
    return redirect_stdout(sys.stderr)


def final_exit_code(code: int) -> int:
    """The exit code after all output: 120 instead of 0 if stdout could not be written.

    The reason is printed to stderr, unless the reader has closed the pipe.
    """
    flush()
    failure = sys.stdout.sink.failure if isinstance(sys.stdout, _Stream) else None
    if failure is None:
        return code
    if not isinstance(failure, BrokenPipeError):
        print_stderr(f"deploytool: stdout could not be written: {failure.strerror}")
    return code or _WRITE_FAILED


def _print(stream: IO[str], line: str) -> None:
    stream.write(f"{visible(line)}\n")
    stream.flush()


class _Sink(io.FileIO):
    """A file descriptor that accepts all data; after the first error, data is discarded."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """The number of bytes accepted, at least one."""
        try:
            while self.failure is None:
                if (written := super().write(data)) is not None:
                    return written
                select.select((), (self,), ())  # the descriptor is non-blocking and its pipe is full
        except OSError as error:
            self.failure = error
        return len(data)


class _Stream(io.TextIOWrapper):
    """A text stream to a file descriptor; replaces characters that its encoding lacks."""

    def __init__(self, descriptor: int, original: IO[str] | None) -> None:
        self.sink = _Sink(descriptor, "w", closefd=False)
        modes = ("line_buffering", "write_through")
        line_buffering = original is None or any(getattr(original, mode, False) for mode in modes)
        encoding = getattr(original, "encoding", "utf-8")
        super().__init__(io.BufferedWriter(self.sink), encoding, errors=_HANDLER, line_buffering=line_buffering)


def _open_closed_descriptors() -> None:
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < len(_STREAMS):  # gets the lowest free descriptor
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _is_visible(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _json_escape(char: str) -> str:
    r"""The character as `\uXXXX`, or as a surrogate pair of two such escapes."""
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _replace(error: UnicodeError) -> tuple[str, int]:
    """The error handler of `codecs` for characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ASCII.get(char) or _escape(char) for char in error.object[error.start : error.end]), error.end
