"""The types of single values in the configuration: addresses, amounts of money and time, names, secrets.

Decides the bounds of each, so that an impossible one is refused where it is written. Which key holds what is left to
``schema``.
"""

import re
from decimal import Decimal
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)

from gateway.config.credentials import read_key_digest, read_secret
from gateway.config.licences import licence_class
from gateway.config.snapshot import PageAccess
from gateway.types import Licence, Secret

_MASK = PlainSerializer(lambda _: "***", return_type=str)
_REFERENCE = {"type": "string", "pattern": "^(env|file):.+"}
_AMOUNT = WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1_000_000})
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f.]*:[0-9a-f:.]*\]")
_UPSTREAM_HOST = re.compile(r"(?!.{254})(?:(?:[a-z0-9_~-]{1,63}\.)*[a-z0-9_~-]{1,63}\.?|[0-9a-f:.]*:[0-9a-f:.]*)")
"""What ``transport`` can look up; names of containers hold underscores."""
_PATH = re.compile(r"[!-~]*")
_OPERATION = re.compile(
    r"/(?:chat/completions|completions|embeddings|audio/[a-z]+|messages(?:/count_tokens)?|responses|models|rerank)$"
)
_VERSION_TWICE = re.compile(r"/(v[0-9]+)/\1(?:/|$)")
_BROADCAST = ip_address("255.255.255.255")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_PORT = re.compile(r":[0-9]{1,5}$")
_OWN_PORTS = {"http": "80", "https": "443"}


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("should be a number, not a yes or no")  # noqa: TRY004 - pydantic collects ValueError only
    return value


def _base_url(url: str) -> str:
    """Check an upstream's address. It is not repeated in a message: it may carry a password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        usable = False
    if usable and (parts.username is not None or parts.query or parts.fragment):
        raise ValueError("should hold no user, password, query or fragment; a credential goes in api_key")
    if not usable or not _UPSTREAM_HOST.fullmatch(parts.hostname or "") or not _PATH.fullmatch(parts.path):
        raise ValueError("should be an address such as http://127.0.0.1:8000 or https://example.com/v1")
    _check_can_be_called(parts.hostname or "")
    path = parts.path.rstrip("/")
    if (operation := _OPERATION.search(path)) is not None:
        raise ValueError(f"should end before {operation[0]}, which the gateway adds itself")
    if (version := _VERSION_TWICE.search(path)) is not None:
        raise ValueError(f"says {version[1]} twice")
    return url.rstrip("/")


def _check_can_be_called(host: str) -> None:
    """Refuse addresses that only a listener or a group has, and numbers that are no address."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        if host.rstrip(".").rpartition(".")[2].isdecimal():
            raise ValueError(f"names the host {host}, which is no address: an IPv4 address has four parts") from None
        return
    if address.is_unspecified:
        raise ValueError(f"names {host}, where a server listens but none can be called; this machine is 127.0.0.1")
    if address.is_multicast or address == _BROADCAST:
        raise ValueError(f"names {host}, which is the address of no single machine")


def _host_name(name: str) -> str:
    """Bring a host's name or address into the form in which requests are compared: lower case, no dot at the end."""
    bare = name.lower().removesuffix(".")
    if bare.count(":") > 1 and not bare.startswith("["):
        bare = f"[{bare}]"
    if not _HOST.fullmatch(bare):
        raise ValueError("should be a name or an address without scheme and port, such as gateway.example.com")
    return bare


def _origin(origin: str) -> str:
    """Bring an origin into the form in which browsers send it: lower case, without the scheme's own port."""
    scheme, _, authority = origin.lower().removesuffix("/").partition("://")
    host, _, port = authority.rpartition(":") if _PORT.search(authority) else (authority, "", "")
    if not (_SCHEME.fullmatch(scheme) and _HOST.fullmatch(host)):
        raise ValueError("should be one origin, such as https://app.example.com, without a path; '*' stands for none")
    return f"{scheme}://{host}" if port in ("", _OWN_PORTS.get(scheme)) else f"{scheme}://{authority}"


def price_section(value: object) -> object:
    """Turn ``free`` into prices of zero and leave a mapping as it is. Raises ValueError for any other text."""
    if value == "free":
        return {"input": 0, "output": 0}
    if isinstance(value, str):
        raise ValueError("should be 'free', or a mapping such as {input: 0.10, output: 0.40} in USD per 1M tokens")  # noqa: TRY004
    return value


def _header_value(value: object, info: ValidationInfo) -> str | Secret:
    if isinstance(value, str) and value.startswith(("env:", "file:")):
        return read_secret(value, info)
    if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
        raise ValueError("should be plain text, in quotes if it looks like a number")
    return value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$")]
"""A name that can be a metric label, a header's value and the ``model`` of a request."""
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,126}\*?$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]
Usd = Annotated[Decimal, BeforeValidator(_number), Field(ge=0, le=1_000_000, decimal_places=9), _AMOUNT]
"""Nine decimals are nano-dollars, so no price is ever rounded. YAML's floats carry 15 digits exactly."""
Seconds = Annotated[float, BeforeValidator(_number), Field(gt=0, le=86_400)]
Milliseconds = Annotated[float, BeforeValidator(_number), Field(gt=0, le=86_400_000)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1, le=1_000_000_000)]
SecretReference = Annotated[Secret, PlainValidator(read_secret), _MASK, WithJsonSchema(_REFERENCE)]
KeyDigest = Annotated[
    bytes,
    PlainValidator(read_key_digest),
    _MASK,
    WithJsonSchema({"type": "string", "pattern": "^(env:|file:|sha256:).+"}),
]
HeaderValue = Annotated[
    str | Secret,
    PlainValidator(_header_value),
    PlainSerializer(lambda value: value if isinstance(value, str) else "***", return_type=str),
    WithJsonSchema({"type": "string"}),
]
PageAccessName = Annotated[PageAccess, BeforeValidator(lambda value: "off" if value is False else value)]
"""YAML reads ``off`` without quotes as false."""
HostName = Annotated[str, AfterValidator(_host_name)]
Origin = Annotated[str, AfterValidator(_origin)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
LicenceName = Annotated[Licence, BeforeValidator(licence_class), WithJsonSchema({"type": "string"})]
Duration = Annotated[
    str,
    BeforeValidator(lambda value: "0" if type(value) is int and value == 0 else value),
    Field(pattern=r"^(0|[0-9]{1,6}(\.[0-9]{1,3})?[smhd])$"),
]
"""``30m``, ``24h``, ``7d``, or 0."""
Number = BeforeValidator(_number)
