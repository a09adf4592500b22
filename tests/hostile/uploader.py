"""An attacker: four connections that post bodies of 18 MB as fast as they are taken, whatever is answered.

``python -m tests.hostile.uploader PORT KEY SECONDS`` prints how many answers had each status, and ends by itself.
"""

import socket
import sys
import threading
import time
from collections import Counter

CONNECTIONS = 4
BODY_BYTES = 18_000_000
_PROSE = b"The quick brown fox jumps over the lazy dog, again. "
_BODY = (
    b'{"model":"no-such-model","messages":[{"role":"user","content":"' + _PROSE * (BODY_BYTES // len(_PROSE)) + b'"}]}'
)


def post(port: int, key: str, until_s: float, answers: Counter[str]) -> None:
    """Post again and again, on a new connection when the last one was closed."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
    request = f"{head}Content-Length: {len(_BODY)}\r\n\r\n".encode() + _BODY
    while time.monotonic() < until_s:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                while time.monotonic() < until_s:
                    connection.sendall(request)
                    answers[connection.recv(65_536)[9:12].decode() or "closed"] += 1
        except OSError:
            answers["broken"] += 1


def main() -> None:
    """Attack, and say what came of it."""
    port, key, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    answers: Counter[str] = Counter()
    until_s = time.monotonic() + seconds
    threads = [threading.Thread(target=post, args=(port, key, until_s, answers)) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(dict(answers), flush=True)


if __name__ == "__main__":
    main()
