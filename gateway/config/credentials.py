"""Reads the secrets that a configuration names, so that none need be written in it.

Decides the three forms: ``env:NAME``, ``file:PATH`` and, for keys that callers show, ``sha256:HEX``. No message here
repeats what was written, for it may be the secret itself, under the wrong key.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from pydantic import ValidationInfo

from gateway.types import Secret

_MAX_FILE_BYTES = 65_536
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Only what is surely a variable's name is repeated in a message: OPENAI_API_KEY, but not a key pasted behind env:.
_SURELY_A_VARIABLE = re.compile(r"[A-Z][A-Z0-9]{0,15}(_[A-Z0-9]{1,15})+")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_HOW = "put it in the environment and write env:NAME, or in a file and write file:PATH"


class Surroundings(Struct, frozen=True):
    """What a configuration may look at besides its own text: the context of its validation."""

    environ: Mapping[str, str]
    directory: Path
    """Relative paths in the file start here."""
    provider_types: frozenset[str] | None = None
    """None: not checked yet."""

    def path(self, written: str) -> Path:
        """Turn a path of the file into one of the machine: ``~`` is the home directory of ``environ``."""
        if written == "~" or written.startswith("~/"):
            return self.home() / written[2:]
        return self.directory / written

    def home(self) -> Path:
        """Return the home directory."""
        home = self.environ.get("HOME")
        return Path(home) if home else Path.home()


def surroundings(info: ValidationInfo) -> Surroundings:
    """Return the context of a validation, which ``load`` gives."""
    if not isinstance(info.context, Surroundings):
        raise TypeError("a configuration is validated by gateway.config.load.load")
    return info.context


def read_secret(written: object, info: ValidationInfo) -> Secret:
    """Fetch what ``env:NAME`` or ``file:PATH`` names. Raises ValueError, which says what to write, never what was."""
    if isinstance(written, str):
        kind, _, name = written.partition(":")
        if kind == "env":
            return Secret(_usable(_from_environment(name, surroundings(info).environ)))
        if kind == "file":
            return Secret(_usable(_from_file(surroundings(info).path(name))))
    raise ValueError(f"a secret must not be written in this file; {_HOW}")


def read_key_digest(written: object, info: ValidationInfo) -> bytes:
    """Return the SHA-256 of a caller's key from ``env:``, ``file:`` or ``sha256:``. Raises as ``read_secret`` does."""
    if isinstance(written, str) and written.startswith("sha256:"):
        digest = written.removeprefix("sha256:").strip()
        if not _SHA256.fullmatch(digest):
            raise ValueError("sha256: wants the 64 hexadecimal digits of the key's SHA-256")
        return bytes.fromhex(digest)
    try:
        return hashlib.sha256(read_secret(written, info).value.encode()).digest()
    except ValueError as error:
        raise ValueError(str(error).replace(_HOW, f"{_HOW}, or write sha256: and its digest")) from None


def _from_environment(name: str, environ: Mapping[str, str]) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError("env: wants the name of an environment variable, such as env:OPENAI_API_KEY")
    value = environ.get(name, "").strip()
    if not value:
        shown = f" {name}" if _SURELY_A_VARIABLE.fullmatch(name) else " that this names"
        raise ValueError(f"the environment variable{shown} is not set, or is empty")
    return value


def _from_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ValueError(f"the file that this names cannot be read: {reason}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise ValueError("the file that this names is too large to be a secret")
    value = content.decode("utf-8", "replace").strip()
    if not value:
        raise ValueError("the file that this names is empty")
    return value


def _usable(value: str) -> str:
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise ValueError("the secret that this names holds a space or another character that no credential can have")
    return value
