"""Writes the HTML page of a run in a child process, which imports matplotlib and jinja2 while the stages run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from deploytool.report import html


def main() -> None:
    """Writes the page; the task on stdin is the folder of the run and the path that it is published under."""
    folder, published = json.loads(sys.stdin.readline())
    html.write(Path(folder), Path(published))
