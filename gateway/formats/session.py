"""Finds the id by which a client names its session: the conversation that a request belongs to.

Agents send it in a header (OpenCode, Codex, Claude Code), SDKs as the key of the prompt's cache or, in Anthropic's
dialect, within the user's id. The first one that says anything counts.

Sources: requests of OpenCode 1.18, Codex 0.171 and Claude Code 2.1; platform.openai.com/docs/guides/prompt-caching;
platform.claude.com/docs/en/api/messages (``metadata``).
"""

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from gateway.formats.malformed import UNREADABLE

_HEADERS = ("x-session-id", "session-id", "x-claude-code-session-id", "x-session-affinity")
SAYS = frozenset((*_HEADERS, "prompt_cache_key", "metadata"))
"""Names of headers and members; a request with none of them names no session."""


class _Metadata(Struct):
    user_id: str | None = None


_text = msgspec.json.Decoder(str | None).decode
_metadata = msgspec.json.Decoder(_Metadata | None).decode


def named_session(headers: Mapping[str, str], members: Mapping[str, bytes]) -> str | None:
    """Return a session's name as the client wrote it; None: it gives none."""
    for name in _HEADERS:
        if said := headers.get(name, "").strip():
            return said
    try:
        cache_key: str | None = _text(members.get("prompt_cache_key", b"null"))
        if cache_key:
            return cache_key
        metadata = _metadata(members.get("metadata", b"null"))
    except UNREADABLE:
        return None  # of another type: for the upstream to judge
    return None if metadata is None else metadata.user_id or None
