"""The process that carries chunks of a blob to a registry: it outlives a killed push by the chunk it has in hand."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from deploytool import serde
from deploytool.errors import DeployError, Refused
from deploytool.host import files
from deploytool.transfer.http import HttpClient

_LONGEST = 4 << 20  # bytes of the record


@dataclass(frozen=True)
class Errand:
    """What to carry: bytes `start` to `size` of a file, `chunk` at a time, to the `location` of an upload.

    Where the registry wants the next chunk is written under `key` in `golden`, before anything else is done.
    """

    location: str
    path: str
    start: int
    size: int
    chunk: int
    authorization: str | None
    ca: str | None
    record: str
    key: str


def main() -> None:
    """Reads an errand, then carries one chunk for each line; stops where nobody asks any more."""
    asked = sys.stdin.buffer
    errand = serde.decode(Errand, json.loads(asked.readline()))
    ca = None if errand.ca is None else Path(errand.ca)
    wire = HttpClient(errand.location, authorization=errand.authorization, ca=ca)
    location, start = errand.location, errand.start
    with Path(errand.path).open("rb") as opened:
        opened.seek(start)
        while asked.readline():
            try:
                location = _carry(wire, location, start, opened.read(errand.chunk))
            except DeployError as error:
                _say({"problem": str(error)})
                return
            start = min(start + errand.chunk, errand.size)
            _note(Path(errand.record), errand.key, location)
            _say({"end": start, "location": location})


def _carry(wire: HttpClient, location: str, start: int, block: bytes) -> str:
    """Sends one chunk; the address for the next one."""
    headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{start}-{start + len(block) - 1}"}
    reply = wire.ask("PATCH", location, block, headers, again=False)
    if reply.status != 202:
        raise Refused(f"the registry takes no chunk from byte {start} on: {reply.status}", "try again")
    return urljoin(location, reply.headers.get("location", location))


def _note(record: Path, key: str, location: str) -> None:
    try:
        known = serde.loads(files.read(record, _LONGEST))
    except (Refused, ValueError):
        known = {}
    with suppress(OSError):  # a folder that nobody may write to costs the record, not the push
        files.publish(record, serde.text({**known, key: location}).encode())


def _say(what: dict[str, int | str]) -> None:
    """One line to whoever sent us; if nobody listens any more, the work is done all the same."""
    try:
        os.write(1, json.dumps(what).encode() + b"\n")
    except BrokenPipeError:
        return


if __name__ == "__main__":
    main()
