"""Who asks over HTTP, with which token and from where in; the services it may ask for, or why it is refused, out.

The peers table of the DICOM port decides (`[peers.NAME]`): a token names its peer as an AE title and a certificate do
there; without one, peers that have no token are told by the narrowest network around the address.
"""

import hmac
import ipaddress
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from starlette.requests import Request

from dicomnode.audit.auditor import Auditor, Party, silent
from dicomnode.errors import NotPermitted
from dicomnode.settings import SERVICES, DimseSettings, PeerSettings, WebSettings
from dicomnode.web.errors import NotAuthenticated

logger = logging.getLogger(__name__)
STORE, FIND, GET, QUERY, ECHO = "store", "find", "get", "query", "echo"
NOBODY: Final = "0.0.0.0"  # noqa: S104 - of a connection without an address, which no network holds
_WORDS: Final = {STORE: "storing", FIND: "searching", GET: "retrieving", QUERY: "region queries", ECHO: "metrics"}
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Caller:
    """Who asks, as far as it is known. `name`: of the peer's table or its AE title; empty: of nobody known."""

    name: str
    services: frozenset[str]
    address: str = ""

    @property
    def party(self) -> Party:
        """As the audit trail names it."""
        return Party(self.name, self.address)


class Access:
    """The peers table, ready to decide. State: none that changes."""

    def __init__(
        self,
        web: WebSettings,
        dimse: DimseSettings,
        peers: tuple[PeerSettings, ...],
        heard: Callable[[str], None] = lambda ae_title: None,
        auditor: Auditor | None = None,
    ) -> None:
        """`heard`: told the AE title of who asks."""
        self._heard = heard
        self._auditor = auditor or silent()
        self._peers = peers
        self._accepts_unknown = {"accept": True, "refuse": False, "auto": not peers}[dimse.unknown_peers]
        self._is_secure = web.public_url.startswith("https://")  # TLS ends at a proxy in front

    def caller(self, request: Request, session_token: str | None = None, *, logs_in: bool = False) -> Caller:
        """Who asks. NotAuthenticated when it is nobody who may; NotPermitted when it may not from there.

        `session_token`: what a browser logged in with, instead of the header that it cannot send; `logs_in`: does now.
        """
        address = _address(request)
        token = session_token or _token(request)
        try:
            caller = replace(self._decided(address, token), address=str(address))
        except (NotAuthenticated, NotPermitted) as refused:
            self._turn_away(Party("", str(address)), str(refused), is_known=token is not None, logs_in=logs_in)
            raise
        self._heard(caller.name)
        (self._auditor.logged_in if logs_in else self._auditor.seen)(caller.party)
        return caller

    def _turn_away(self, who: Party, why: str, *, is_known: bool, logs_in: bool) -> None:
        """Told of unless it showed nothing: a browser that comes to log in does not."""
        if logs_in:
            self._auditor.logged_in(who, why)
            self._auditor.counted("http")
        elif is_known:
            self._auditor.refused("http", who, why)
        else:
            self._auditor.counted("http")

    def denied(self, caller: Caller, why: str) -> None:
        """Somebody who was let in asked for what it may not."""
        self._auditor.refused("http", caller.party, why)

    def left(self, caller: Caller) -> None:
        """Somebody ended a session."""
        self._auditor.logged_out(caller.party)

    def _decided(self, address: Address, token: str | None) -> Caller:
        if token is not None:
            return self._by_token(token, address)
        known = [peer for peer in self._peers if not peer.token and peer.addresses and not self._is_barred(peer)]
        near = _narrowest(known, address)
        if near:
            return Caller(near[0].ae_title, frozenset().union(*(peer.services for peer in near)))
        if self._accepts_unknown:
            return Caller("", frozenset(SERVICES))
        logger.warning("HTTP request from %s refused: no token, and address of no peer", address)
        raise NotAuthenticated("a token is needed: Authorization: Bearer")

    def _by_token(self, token: str, address: Address) -> Caller:
        found = [peer for peer in self._peers if peer.token and _is_same(peer.token, token)]
        if not found:
            logger.warning("HTTP request from %s refused: unknown token", address)
            raise NotAuthenticated("the token is unknown")
        (peer,) = found
        if peer.addresses and not _narrowest(found, address):
            logger.warning("HTTP request from %s refused: address is none of peers.%s", address, peer.name)
            raise NotPermitted("the token is not used from this address")
        if self._is_barred(peer):
            logger.warning("HTTP request from %s refused: peers.%s must call over TLS", address, peer.name)
            raise NotPermitted("the token is used over TLS only")
        return Caller(peer.ae_title, frozenset(peer.services))

    def _is_barred(self, peer: PeerSettings) -> bool:
        return peer.tls and not self._is_secure


def permit(access: Access, service: str) -> Callable[[Request], Caller]:
    """What checks a request before it is served; NotAuthenticated or NotPermitted otherwise."""

    def check(request: Request) -> Caller:
        caller = access.caller(request)
        if service not in caller.services:
            logger.warning("HTTP request of %s refused: %s not permitted", caller.name or "nobody known", service)
            access.denied(caller, f"{service} not permitted")
            raise NotPermitted(f"{_WORDS[service]} is not permitted")
        return caller

    return check


def _token(request: Request) -> str | None:
    """RFC 6750 2.1. NotAuthenticated for another scheme."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NotAuthenticated("Authorization must be a Bearer token")
    return token.strip()


def _is_same(known: str, given: str) -> bool:
    return hmac.compare_digest(known.encode(), given.encode("utf-8", "surrogateescape"))


def _address(request: Request) -> Address:
    host = request.client.host if request.client else NOBODY
    address = ipaddress.ip_address(host.partition("%")[0])
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def _narrowest(peers: Iterable[PeerSettings], address: Address) -> list[PeerSettings]:
    """The peers with the narrowest network around the address; several where it is the same one."""
    around = [
        (network.prefixlen, peer)
        for peer in peers
        for network in map(ipaddress.ip_network, peer.addresses)
        if address in network
    ]
    longest = max((length for length, _ in around), default=0)
    return [peer for length, peer in around if length == longest]
