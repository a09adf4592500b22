"""ASGI helpers for all our apps: send a whole answer, read a bounded body, notice a client that left, check a token."""

import hmac

import msgspec

from workers.engine import Message, Receive, Send


def local_path(scope: Message) -> str:
    """Return the path without the route prefix, which Serve's proxy leaves in it and names in ``root_path``."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def carries(scope: Message, token: str | None) -> bool:
    """Say whether the request has the bearer token, or none is asked for. Takes the same time for any wrong token."""
    if token is None:
        return True
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, credentials = given.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(credentials.strip(), token.encode())


async def answer(send: Send, status: int, value: object = None, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Send ``value`` as JSON, or nothing."""
    body = b"" if value is None else msgspec.json.encode(value)
    known = ((b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": [*known, *headers]})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, status: int, kind: str, message: str, *headers: tuple[bytes, bytes]) -> None:
    """Send an error in OpenAI's shape."""
    error = {"message": message, "type": kind, "param": None, "code": status}
    await answer(send, status, {"error": error}, headers)


async def read_body(receive: Receive, limit: int) -> bytes | None:
    """Return the whole body; none when it is longer than ``limit`` or ended early."""
    body = b""
    while len(body) <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body
    return None


async def gone(receive: Receive) -> None:
    """Return when the caller has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
