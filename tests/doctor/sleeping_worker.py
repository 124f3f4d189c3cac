"""A worker module that does not end."""

from __future__ import annotations

import time


def main(*arguments: str) -> None:
    """Takes the arguments of `deploytool.doctor.provider_worker`."""
    time.sleep(60)
