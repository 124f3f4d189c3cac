"""A worker module that crashes."""

from __future__ import annotations

import os


def main() -> None:
    """Aborts before it reads its task."""
    os.abort()
