"""An association in, who is at its other end out: for decisions, the log and the audit trail."""

import ipaddress
from typing import Any

from dicomnode.audit.auditor import Party

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def address_of(text: str) -> Address:
    """A peer's address as the system gives it. An IPv4 address behind an IPv6 port is the IPv4 address, RFC 4291."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def requestor_of(association: Any) -> Party:
    """Who asked for the association."""
    requestor = association.requestor
    return Party(str(requestor.ae_title).strip(), str(address_of(requestor.address)))
