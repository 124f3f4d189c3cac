"""The control groups of this process on Linux, by which containers and services limit memory and processor time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROCESS, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def folders(controller: str) -> Iterator[tuple[Path, int]]:
    """The folders of a controller's groups, such as "memory", innermost first; each with the version, 1 or 2.

    Inside a container the path of a group is often that outside it: then only the outermost folder exists.
    """
    with suppress(OSError):
        for line in _PROCESS.read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            if not kinds:
                yield from ((folder, 2) for folder in _upwards(_MOUNT, path))
            elif controller in kinds.split(","):
                yield from ((folder, 1) for folder in _upwards(_MOUNT / controller, path))


def _upwards(top: Path, path: str) -> Iterator[Path]:
    innermost = top / path.lstrip("/")
    yield innermost
    yield from (parent for parent in innermost.parents if parent.is_relative_to(top))
