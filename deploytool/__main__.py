"""`python -m deploytool` is `deploytool`; a device, which lacks the desk's libraries, is shown its own door."""

import os
import signal
import sys

from deploytool import terminal


def main() -> None:
    """The command line, or one line where it cannot be: the exit code is that of a missing backend."""
    terminal.take()
    for number in (signal.SIGINT, signal.SIGTERM):  # until the front door listens: nothing is made yet
        signal.signal(number, lambda sent, _: os._exit(128 + sent))
    try:
        from deploytool.cli import main as front_door
    except (ImportError, MemoryError) as error:
        if isinstance(error, MemoryError) or error.name not in ("typer", "rich"):
            terminal.note(f"deploytool: it cannot be loaded: {type(error).__name__}: {error}")
            terminal.note("  → install it again, and see that there is memory enough (ulimit -v)")
            sys.exit(2 if isinstance(error, MemoryError) else 5)
        terminal.note(f"deploytool: {error.name} is not installed, as on a device")
        terminal.note("  → use python -m deploytool.device, or pip install 'deploytool[cpu]' for the desk")
        sys.exit(5)
    front_door()


if __name__ == "__main__":
    main()
