"""Lets the canaries of a rollout through, and the other devices only after all of those have proved the bundle."""

from __future__ import annotations

import threading
from collections.abc import Sequence


class Gate:
    """Admits canaries at once; the others wait until all of those are proved, and are sent back if one is not.

    Canaries are the devices that are named or, if none is, the `first` that come; with neither, every device is
    admitted. `count` is the number of canaries.
    """

    def __init__(self, first: int, named: Sequence[str] = ()) -> None:
        self.count = len(named) or first
        self._canaries, self._proved = set(named), 0
        self._failed = ""
        self._changed = threading.Condition()

    @property
    def failed(self) -> str:
        """The name of the first canary that did not prove the bundle; empty if there is none."""
        return self._failed

    def admit(self, name: str) -> bool | None:
        """Whether a device is a canary; None if it must not begin because one of those failed."""
        with self._changed:
            if name in self._canaries or len(self._canaries) < self.count:
                self._canaries.add(name)
                return None if self._failed else True
            self._changed.wait_for(lambda: self._failed or self._proved >= self.count)
            return None if self._failed else False

    def leave(self, name: str, *, proved: bool) -> None:
        """Notes how a device has ended; it matters for canaries, also for one that was named and never admitted."""
        with self._changed:
            if name in self._canaries:
                self._proved += proved
                if not proved:
                    self._failed = self._failed or name
                self._changed.notify_all()
