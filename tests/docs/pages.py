"""Parses the code blocks of the README and the pages in docs/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = "# not run by the tests: "
REASONS = (  # what excuses a block from being run; a new excuse has to be written here
    "installs packages",
    "installs packages, and takes minutes",
    "takes minutes to hours",
    "needs a GPU",
    "needs a trained model and its images",
    "needs a cluster",
    "needs an OCI registry and an ssh server",
    "needs devices with ssh",
    "needs Triton Inference Server",
)
LANGUAGES = ("sh", "console", "python", "toml", "text", "yaml")
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# ([\w.-]+\.(?:py|toml))\n")
_NUMBER = re.compile(r"[0-9a-f]{12,}|[+-]?\d[\d.,]*(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Step:
    """One command of a block, and the lines that it prints according to the page; None if the page shows none."""

    command: str
    printed: tuple[str, ...] | None


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `number` counts from 1."""

    page: Path
    number: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Page, number and first command, as a test id."""
        lines = [line for line in self.text.splitlines() if line and not line.startswith("#")]
        return f"{self.page.name}-{self.number}: {lines[0].removeprefix('$ ')[:50] if lines else ''}"

    @property
    def reason(self) -> str | None:
        """Why the block is not run; None if it is run."""
        first = self.text.partition("\n")[0]
        return first.removeprefix(NOT_RUN) if first.startswith(NOT_RUN) else None

    @property
    def file(self) -> str | None:
        """The name of the file that the block shows, if it shows one."""
        match = _FILE.match(self.text) if self.language in ("python", "toml") else None
        return match[1] if match else None

    @property
    def steps(self) -> list[Step]:
        """The commands in order; a Python block is one command."""
        if self.language == "python":
            return [Step(self.text, None)]
        if self.language == "console":
            return [_step(part) for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE) if part]
        lines = [line for line in self.text.splitlines() if line and not line.startswith("#")]
        return [Step(line, None) for line in lines]


def _step(part: str) -> Step:
    command, *printed = part.splitlines()
    return Step(command, tuple(printed))


def blocks() -> list[Block]:
    """Every block of every page, in the order of the pages."""
    return [
        Block(page, number, language, text)
        for page in PAGES
        for number, (language, text) in enumerate(_FENCE.findall(page.read_text(encoding="utf-8")), 1)
    ]


def runnable(block: Block) -> bool:
    """Whether the block holds commands or a program that can run here."""
    return block.language in ("sh", "console", "python") and block.reason is None and block.file is None


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def same(printed: tuple[str, ...], output: str) -> bool:
    """Whether a command printed what its page shows: all lines in order, numbers aside; `…` stands for any lines."""
    pattern = "".join(r"(?:.*\n)*?" if line == "…" else re.escape(_masked(line)) + r"\n" for line in printed if line)
    lines = "".join(f"{_masked(line)}\n" for line in output.splitlines() if line.strip())
    return re.fullmatch(pattern, lines) is not None


def _masked(line: str) -> str:
    return " ".join(re.sub("─+", "─", _NUMBER.sub("#", line)).split())
