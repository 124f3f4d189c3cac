"""`python -m deploytool` is `deploytool`; where typer is not installed it has the commands of a device."""

import os
import signal
import sys

from deploytool.host import terminal

_HOST = "deploytool[cpu]"  # the extra with everything that the other commands need


def main() -> None:
    """The command line; where typer is not installed that of the device, and exit code 5 for any other command."""
    terminal.replace_streams()
    for number in (signal.SIGINT, signal.SIGTERM):  # until the front door listens: nothing is made yet
        signal.signal(number, lambda sent, _: os._exit(128 + sent))
    try:
        from deploytool.cli.app import main as run_command_line
    except (ImportError, MemoryError) as error:
        if isinstance(error, MemoryError) or error.name not in ("typer", "rich"):
            terminal.print_stderr(f"deploytool: it cannot be loaded: {type(error).__name__}: {error}")
            terminal.print_stderr("  → install it again, and see that there is memory enough (ulimit -v)")
            sys.exit(2 if isinstance(error, MemoryError) else 5)
        _on_device(error.name)
    else:
        run_command_line()


def _on_device(missing: str) -> None:
    """Hands a command of the device on, and says of any other what it needs."""
    from deploytool.device import __main__ as device
    from deploytool.device import arguments

    signal.signal(signal.SIGINT, signal.default_int_handler)  # as the device's own command line has them
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    if command is None or command in arguments.COMMANDS:
        device.main("deploytool")
    terminal.print_stderr(f"deploytool: {command} is no command of a device, and {missing} is not installed here")
    terminal.print_stderr(
        f"  → on a device there are {', '.join(arguments.COMMANDS)}; all others need pip install '{_HOST}'"
    )
    sys.exit(5)


if __name__ == "__main__":
    main()
