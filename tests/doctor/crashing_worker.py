"""A worker module that crashes."""

from __future__ import annotations

import os


def main(*arguments: str) -> None:
    """Takes the arguments of `deploytool.doctor.provider_worker`."""
    os.abort()
