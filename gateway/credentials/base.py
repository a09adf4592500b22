"""The interface of a signer: from a finished request and a secret to the request as the provider accepts it."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from gateway.types import Secret, Target, UpstreamRequest


class Signer(Protocol):
    """One way to show a credential; a file of its own, a line in ``registry``, and its name in a provider's row.

    There is one for all providers of its kind, for as long as the process runs. It keeps what it has fetched by secret.
    """

    async def sign(self, request: UpstreamRequest, secret: Secret) -> UpstreamRequest:
        """Return the request with what proves whose it is: nothing of it changes between this and the socket.

        It is awaited before every attempt, within the attempt's time, and of one secret by many at once. Tokens are
        fetched by the transport, and what computes for long runs in a thread. Raises UpstreamError
        (UPSTREAM_CREDENTIALS when the secret is refused), with no word of the secret.
        """

    def secrets(self, secret: Secret) -> Iterable[str]:
        """Return what else no error may show: the parts of a secret, and the tokens fetched with it that are in use."""


def further_secrets(target: Target, signers: Mapping[str, Signer]) -> Iterable[str]:
    """Return what the signer of a target keeps out of errors besides its credential."""
    return () if target.credential is None else signers[target.signer].secrets(target.credential)
