"""Where users' sources may connect to: public addresses, and those private ones that an administrator allows.

A name is resolved once, all its addresses are checked, and the connection goes to a checked address itself, so a name
that resolves differently the next moment (DNS rebinding) changes nothing.
"""

import socket
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from soldiom_ray.collect.http.errors import UnreachableError
from soldiom_ray.collect.text import SkippedError

ADDRESS_SECONDS = 10.0
"""How long one address may take to accept a connection."""

_METADATA = frozenset(
    map(ip_address, ("169.254.169.254", "169.254.170.2", "fd00:ec2::254", "100.100.100.200", "192.0.0.192"))
) | {ip_address("168.63.129.16")}
"""Where clouds tell a machine its own secrets: AWS, Google, Azure, OpenStack (.169.254), ECS (.170.2), AWS over IPv6,
Alibaba, Oracle; 168.63.129.16 is Azure's, a public address that only its own machines reach."""

_NOT_PUBLIC = tuple(
    ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "64:ff9b:1::/48", "3fff::/20", "5f00::/16")
)
"""Networks that Python 3.11 considers public although IANA's special-purpose registries do not."""

_CARRIERS = (("::/96", 0), ("::ffff:0:0/96", 0), ("::ffff:0:0:0/96", 0), ("64:ff9b::/96", 0), ("2002::/16", 80))
"""IPv6 networks that carry an IPv4 address, and how many bits stand behind it: compatible, mapped, translated
(RFC 2765), NAT64, 6to4."""


def allowed_addresses(host: str, port: int, allowed: Sequence[str], private: bool) -> list[str]:
    """The addresses of a host, all of them allowed. `allowed` holds host names, addresses and networks that may be
    reached although they are private; `private` allows every private one except the clouds' metadata services.

    Raises UnreachableError when the name is not known, SkippedError private_address.
    """
    name = host.rstrip(".").lower()
    addresses = look_up(host, port)
    for text in addresses:
        address = ip_address(text.partition("%")[0])
        if name in allowed or any(_is_within(address, entry) for entry in allowed):
            continue
        reason = _refusal(address, port, private)
        if reason:
            raise SkippedError("private_address", f"{name[:80]} is {reason}")
    return addresses


def look_up(host: str, port: int) -> list[str]:
    """All addresses of a host, as the system resolves it: 127.1, 0x7f000001 and 2130706433 become what a connection
    would go to."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnreachableError(f"the name {host[:80]} is not known here") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def connect(addresses: Sequence[str], port: int, seconds: float = ADDRESS_SECONDS) -> socket.socket:
    """A connection to the first address that answers. Raises UnreachableError."""
    deadline = time.monotonic() + 3 * seconds
    problem: OSError | None = None
    for address in addresses:
        remaining = min(seconds, deadline - time.monotonic())
        if remaining <= 0:
            break
        try:
            return socket.create_connection((address, port), timeout=remaining)
        except OSError as error:
            problem = error
    raise UnreachableError(f"port {port} does not answer ({type(problem).__name__})") from problem


def _refusal(address: IPv4Address | IPv6Address, port: int, private: bool) -> str:
    """Why this address may not be reached; "" when it may."""
    effective = [address, *_carried(address)]
    if any(each in _METADATA or each.is_link_local for each in effective):
        return "an address where clouds keep a machine's secrets"
    if any(each.is_multicast for each in effective):
        return "a multicast address"
    if private:
        return ""
    if any(not each.is_global or any(each in network for network in _NOT_PUBLIC) for each in effective):
        return "a private address"
    if port < 1024 and port not in (80, 443):
        return f"asked on port {port}; of the ports below 1024 only 80 and 443 are"
    return ""


def _carried(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    if isinstance(address, IPv4Address):
        return []
    return [
        IPv4Address(int(address) >> behind & 0xFFFFFFFF)
        for network, behind in _CARRIERS
        if address in ip_network(network) and int(address) > 0xFFFF
    ]


def _is_within(address: IPv4Address | IPv6Address, entry: str) -> bool:
    try:
        return address in ip_network(entry, strict=False)
    except ValueError:
        return False
