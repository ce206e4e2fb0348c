"""Which machines may be asked: none inside a private network, however its address is written."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], list[str]]

# IPv6 networks whose addresses hold an IPv4 one, and how many bits stand behind it: the translators of RFC 6052 and
# 8215, IPv4-compatible ones (RFC 4291, 2.5.5.1), 6to4 (RFC 3056).
_HOLD_IPV4 = (("64:ff9b::/96", 0), ("64:ff9b:1::/48", 0), ("::/96", 0), ("2002::/16", 80))
_EMBEDDED = tuple((ipaddress.IPv6Network(network), bits) for network, bits in _HOLD_IPV4)


class PrivateAddress(ValueError):
    """A name that leads into a private network."""


class Unresolved(OSError):
    """A name that leads nowhere, or not in time."""


def is_public(text: str) -> bool:
    """Whether an IP address is one of the public internet, by IANA's registries of special addresses.

    Not private, loopback, link-local, shared (RFC 6598), multicast, reserved or unspecified; an IPv4 address inside an
    IPv6 one counts as itself, and Teredo's tunnels, which end anywhere, are not public.
    """
    address: IP = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped
        for network, bits in _EMBEDDED:
            if address in network:
                inner = ipaddress.IPv4Address(int(address) >> bits & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if address.teredo is not None or address.is_site_local:
            return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    )


def system_resolver(host: str, port: int) -> list[str]:
    """The IP addresses that the machine's resolver gives, in its order; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def checked_addresses(
    host: str, port: int, *, allow_private: bool, seconds: float, resolver: Resolver = system_resolver
) -> list[str]:
    """The IP addresses of a host, each checked; connect to these and to no other answer.

    Asking once and connecting to what was checked leaves a name no second answer (DNS rebinding). Raises
    PrivateAddress when any is not public, and Unresolved when there is none within `seconds`.
    """
    found: list[str] = []
    failures: list[str] = []

    def ask() -> None:
        try:
            found.extend(resolver(host, port))
        except (OSError, UnicodeError) as error:
            failures.append(str(error))

    # getaddrinfo takes no time limit; a thread that hangs in it is left to end by itself.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise Unresolved(f"{host}: its name was not resolved in time")
    if failures or not found:
        raise Unresolved(f"{host}: {failures[0] if failures else 'no address'}")
    if not allow_private:
        for address in found:
            if not is_public(address):
                raise PrivateAddress(f"{host} is {address}, which is no public address")
    return found
