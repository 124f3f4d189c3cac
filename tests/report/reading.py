"""Parses a page into its tags, attributes and text."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from deploytool.report import html, run_data

SECTIONS = ["comparisons", "layers", "speed", "engines", "faults", "agreement", "pending", "provenance"]
VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use"}


class Reader(HTMLParser):
    """The tags of a page with their attributes, and its text; fails on an unbalanced page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"unclosed tags: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(home: Path) -> Reader:
    return Reader(html.render(run_data.read(home)))


def ids(page: Reader) -> list[str]:
    return [attributes["id"] for _, attributes in page.tags if "id" in attributes]
