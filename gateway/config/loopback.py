"""Recognises loopback names and addresses: to listen on, and as the host that a request is for."""

import ipaddress


def is_loopback_address(address: str) -> bool:
    """Return whether this is 127.0.0.0/8 or ::1, written in full: ``127.1`` and ``2130706433`` are not."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def is_loopback_host(host: str) -> bool:
    """Return whether a host as URLs have it (``localhost``, ``127.0.0.1``, ``[::1]``) is a loopback name or address.

    Names below ``localhost`` count: no resolver may ask others for them (RFC 6761, 6.3).
    """
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if name.startswith("["):
        return is_loopback_address(name[1:-1])
    return is_loopback_address(name)
