"""What an option of an export declares beside its name, type and default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Declaration:
    """What an option declares beside its name, type and default.

    `flag` is its name on the command line, by default the name of the field. `usual` describes
    the default where it is None. `least` and `most` are inclusive bounds of a number.
    """

    group: str
    help: str
    metavar: str | None = None
    flag: str | None = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    usual: str | None = None
