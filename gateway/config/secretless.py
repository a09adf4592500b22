"""An environment for those who read a configuration and send nothing: no secret need be there."""

from collections import UserDict

_NO_SECRETS = ("HOME", "XDG_STATE_HOME")
"""What else the configuration asks the environment for."""


class AnyEnviron(UserDict[str, str]):
    """The environment, in which every name has a value: no secret is ever sent, so none need be there."""

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        """Return the variable, or what stands in for a secret."""
        stand_in = default if name in _NO_SECRETS else f"simulated-{name:-<32}"
        return self.data.get(name, stand_in)
