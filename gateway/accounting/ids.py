"""Identifiers of calls and attempts: ours, never a provider's, since those may repeat."""

import secrets


def random_ids(prefix: str) -> str:
    """Make an unguessable identifier: 96 random bits in hexadecimal behind the prefix."""
    return f"{prefix}_{secrets.token_hex(12)}"
