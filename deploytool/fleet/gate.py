"""Lets the first devices of a rollout through, and the others only after those have proved the bundle."""

from __future__ import annotations

import threading


class Gate:
    """Admits `first` devices at once; the others wait until all of those are proved, and are sent back if one is not.

    With `first` 0 every device is admitted.
    """

    def __init__(self, first: int) -> None:
        self._first, self._admitted, self._proved = first, 0, 0
        self._failed = ""
        self._changed = threading.Condition()

    @property
    def failed(self) -> str:
        """The name of the first device that did not prove the bundle; empty if there is none."""
        return self._failed

    def admit(self) -> bool | None:
        """Whether the caller is among the first; None if it must not begin because one of those failed."""
        with self._changed:
            if self._admitted < self._first:
                self._admitted += 1
                return None if self._failed else True
            self._changed.wait_for(lambda: self._failed or self._proved >= self._first)
            return None if self._failed else False

    def report(self, name: str, *, proved: bool) -> None:
        """Notes whether one of the first has proved the bundle."""
        with self._changed:
            self._proved += proved
            if not proved:
                self._failed = self._failed or name
            self._changed.notify_all()
