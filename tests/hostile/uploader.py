"""An attacker: four connections that post bodies of 18 MB as fast as they are taken, whatever is answered.

``python -m tests.hostile.uploader PORT KEY SECONDS KIND`` prints how many answers had each status, and ends by itself.
"""

import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

CONNECTIONS = 4
BODY_BYTES = 18_000_000
_PROSE = b"The quick brown fox jumps over the lazy dog, again. "


def one_message(text: bytes) -> bytes:
    """Write a request of one long message."""
    content = text * (BODY_BYTES // len(text))
    return b'{"model":"no-such-model","messages":[{"role":"user","content":"%b"}]}' % content


def many(item: bytes, count: int, blank: bytes = b"") -> bytes:
    """Write a request with a member of so many items, and what it lacks in length in a message."""
    items = (blank + b",").join([item] * count)
    content = b"x" * (BODY_BYTES - len(items))
    return b'{"model":"no-such-model","messages":[{"role":"user","content":"%b"}],"x":[%b]}' % (content, items)


def messages(count: int) -> bytes:
    """Write a request of many short messages, and one that fills the body."""
    short = b'{"role":"user","content":"a"},' * count
    content = b"x" * (BODY_BYTES - len(short))
    return b'{"model":"no-such-model","messages":[%b{"role":"user","content":"%b"}]}' % (short, content)


BODIES: dict[str, Callable[[], bytes]] = {
    "prose": lambda: one_message(_PROSE),
    "escapes": lambda: one_message(b"\\n"),
    "quotes": lambda: one_message(b'\\"'),
    "pairs": lambda: one_message(b"\\ud83d\\ude00"),
    "accents": lambda: one_message("é".encode()),
    "strings": lambda: many(b'""', 149_000),
    "objects": lambda: many(b'{"a":"b"}', 37_000),
    "numbers": lambda: many(b"1.5e7", 499_000),
    "messages": lambda: messages(24_900),
    "short escapes": lambda: many(b'"%b"' % (b"\\n" * 500), 1_990),
    "broken at the end": lambda: one_message(_PROSE)[:-1] + b"]",
    "too many": lambda: many(b"{}", 1_000_000),
    "too many strings": lambda: many(b'""', 240_000, b" " * 72),
    "too many blanks": lambda: many(b"1.5e7", 900_000, b" " * 14),
}
"""All but the last four are JSON within the limits of a body, and ask for a model that is not there."""


def post(port: int, key: str, body: bytes, until_s: float, answers: Counter[str]) -> None:
    """Post again and again, on a new connection when the last one was closed."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
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
    port, key, seconds, kind = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]
    body = BODIES[kind]()
    answers: Counter[str] = Counter()
    until_s = time.monotonic() + seconds
    threads = [threading.Thread(target=post, args=(port, key, body, until_s, answers)) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(dict(answers), flush=True)


if __name__ == "__main__":
    main()
