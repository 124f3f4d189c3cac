"""The entry point of `deploytool` and `python -m deploytool`; without typer it has the device commands only."""

import os
import signal
import sys

from deploytool.host import terminal

_EXTRA = "deploytool[cpu]"  # has everything that the other commands need


def main() -> None:
    """Runs the command line; without typer only device commands work, and any other ends with exit code 5."""
    terminal.replace_streams()
    for number in (signal.SIGINT, signal.SIGTERM):  # until cli.interrupt installs its handlers
        signal.signal(number, lambda sent, _: os._exit(128 + sent))
    try:
        from deploytool.cli.app import main as run_command_line
    except (ImportError, MemoryError) as error:
        if isinstance(error, MemoryError) or error.name not in ("typer", "rich"):
            terminal.print_stderr(f"deploytool: cannot be imported: {type(error).__name__}: {error}")
            terminal.print_stderr("  → reinstall it, and check that there is enough memory (ulimit -v)")
            sys.exit(2 if isinstance(error, MemoryError) else 5)
        _on_device(error.name)
    else:
        run_command_line()


def _on_device(missing: str) -> None:
    """Runs a device command; for any other command, prints what has to be installed and exits with 5."""
    from deploytool.device import __main__ as device
    from deploytool.device import arguments

    signal.signal(signal.SIGINT, signal.default_int_handler)  # as for `python -m deploytool.device`
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    if command is None or command in arguments.COMMANDS:
        device.main("deploytool")
    terminal.print_stderr(
        f"deploytool: {command} is not a device command, and it needs {missing}, which is not installed"
    )
    terminal.print_stderr(f"  → pip install '{_EXTRA}', or use a device command: {', '.join(arguments.COMMANDS)}")
    sys.exit(5)


if __name__ == "__main__":
    main()
