"""A gateway whose resolver does not answer for some names.

``python -m tests.ground.silent_names serve --config ...`` is ``tollway serve``, for which a look-up of a name that ends
in ``silent.test`` never ends, and every other name is this machine.
"""

import socket
import sys
import threading
from typing import Any

from gateway.cli import main

_system = socket.getaddrinfo


def _look_up(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
    if options.get("flags") or not str(host).endswith(".test"):
        return _system(host, port, *arguments, **options)
    if host.endswith("silent.test"):
        threading.Event().wait()
    return _system("127.0.0.1", port, *arguments, **options)


if __name__ == "__main__":
    socket.getaddrinfo = _look_up
    sys.exit(main())
