"""Runs a worker module in a child process: `python worker_main.py MODULE [ARGUMENT ...]`.

The working folder may hold files of unknown origin, so it is removed from the import path before anything is imported;
`os` and `sys` are loaded when Python starts. For the same reason this file has no `from __future__ import`.
"""

import os
import sys

_FOLDER = os.path.dirname(os.path.realpath(__file__))
_ROOT = os.path.dirname(os.path.dirname(_FOLDER))


def main() -> None:
    """Calls `main` of the module on the command line, with the remaining arguments."""
    sys.path = _import_path()
    from importlib import import_module

    module, *arguments = sys.argv[1:]
    import_module(module).main(*arguments)


def _import_path() -> list[str]:
    """Returns `sys.path` with the folder of this deploytool first, without relative paths and the working folder.

    The folder of this file, which Python adds, is removed too: its modules are imported by their full names only.
    """
    excluded = {_FOLDER}
    try:
        excluded.add(os.path.realpath("."))
    except OSError:  # the working folder was deleted or is not accessible
        pass
    return [_ROOT, *(entry for entry in sys.path if os.path.isabs(entry) and os.path.realpath(entry) not in excluded)]


if __name__ == "__main__":
    main()
