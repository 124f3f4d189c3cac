"""Has a command run by a `tests.warm` process: `python -I -S warm_client.py SOCKET -m MODULE [ARGUMENT ...]`.

Sends its folder, environment and standard streams, and ends with the exit code of the command. It imports as little as
possible, because it takes the place of a program that a test starts hundreds of times.
"""

import json
import os
import socket
import sys


def main() -> int:
    """Returns the exit code of the command, or ends as it was killed; 255 if the process that runs it has ended."""
    address, *arguments = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(connection, [b"\0"], [0, 1, 2])
        connection.sendall(json.dumps(request).encode() + b"\n")
        code = int(connection.makefile().readline() or 255)
    if code < 0:
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main())
