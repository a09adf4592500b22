"""Puts a secret into a header, as it is."""

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from gateway.types import Secret, UpstreamRequest


class InHeader(Struct, frozen=True):
    """The header's name in lower case, and what stands before the secret."""

    name: str
    scheme: str = ""

    async def sign(self, request: UpstreamRequest, secret: Secret) -> UpstreamRequest:
        """See ``Signer.sign``."""
        return replace(request, headers=(*request.headers, (self.name, self.scheme + secret.value)))

    def secrets(self, secret: Secret) -> Iterable[str]:  # noqa: ARG002 - the protocol's
        """See ``Signer.secrets``: it is shown whole."""
        return ()
