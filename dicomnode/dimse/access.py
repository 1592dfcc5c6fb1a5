"""Who calls whom, from where and how in; the services it may ask for, or why it is refused, out. PS3.8 9.3.4, 9.3.3.2.

One table decides (`[peers.NAME]` of the settings), at three places: the association is accepted or rejected, contexts
of services that are not permitted are not accepted, and what shares a context with another service is told apart when
it is asked: region queries from plain ones, C-STORE requests from the sub-operations of a C-GET.
"""

import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from dicomnode import log, private
from dicomnode.audit.auditor import Auditor, Party, silent
from dicomnode.dimse import contexts
from dicomnode.dimse.exchange import Exchange, Service
from dicomnode.dimse.lane import Arrival, Stores
from dicomnode.dimse.parties import Address, address_of
from dicomnode.dimse.store import Dropped
from dicomnode.dimse.wire import StoreRequest
from dicomnode.errors import IdentifierError, NotPermitted
from dicomnode.settings import SERVICES, DimseSettings, PeerSettings

logger = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Entry = tuple[Network | None, PeerSettings]
EVERYTHING: Final = frozenset(SERVICES)

# A-ASSOCIATE-RJ, PS3.8 Table 9-21: result, source, and the reasons of that source.
REJECTED_PERMANENT: Final = 1
SERVICE_USER: Final = 1
NO_REASON_GIVEN: Final = 1
CALLING_AE_NOT_RECOGNISED: Final = 3
CALLED_AE_NOT_RECOGNISED: Final = 7

PERMISSION_OF: Final = {uid: service.permission for service in contexts.SERVICES for uid in service.sop_classes}
REGION_QUERY, PLAIN_QUERY, STORE, GET = "query", "find", "store", "get"


@dataclass(frozen=True)
class Caller:
    """What is known of a peer when it asks for an association."""

    calling: str
    called: str
    address: Address
    tls: bool = False
    certificate_names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Refused:
    """Why there is no association: for the peer a reason of PS3.8 Table 9-21, for the log a sentence."""

    reason: int
    why: str


@dataclass(frozen=True)
class Rule:
    """What a configured peer must be besides known."""

    broken: Callable[[Caller, PeerSettings], bool]
    reason: int
    why: str


RULES: Final = (
    Rule(lambda caller, peer: peer.tls and not caller.tls, NO_REASON_GIVEN, "must call over TLS"),
    Rule(
        lambda caller, peer: bool(peer.certificate_name) and peer.certificate_name not in caller.certificate_names,
        CALLING_AE_NOT_RECOGNISED,
        "has another name in its certificate",
    ),
)


class Access:
    """The peers table and the called AE titles, ready to decide. State: none that changes."""

    def __init__(
        self,
        settings: DimseSettings,
        peers: tuple[PeerSettings, ...],
        more_titles: tuple[str, ...] = (),
        heard: Callable[[str], None] = lambda ae_title: None,
        auditor: Auditor | None = None,
    ) -> None:
        """`more_titles`: AE titles that the node answers to besides those of the settings; `heard`: told who calls."""
        self._heard = heard
        self._auditor = auditor or silent()
        titles = frozenset((settings.ae_title, *settings.called_ae_titles, *more_titles))
        self._called = titles if settings.check_called_ae else None
        accepts_unknown = {"accept": True, "refuse": False, "auto": not peers}
        self._accepts_unknown = accepts_unknown[settings.unknown_peers]
        self._peers: dict[str, list[Entry]] = {}
        for peer in peers:
            self._peers.setdefault(peer.ae_title, []).extend(_entries(peer))

    def decide(self, caller: Caller) -> frozenset[str] | Refused:
        """The services (`settings.SERVICES`) that the caller may ask for, or why none."""
        if self._called is not None and caller.called not in self._called:
            return Refused(CALLED_AE_NOT_RECOGNISED, "called AE title is none of the node's")
        if caller.calling not in self._peers:
            refused = Refused(CALLING_AE_NOT_RECOGNISED, "calling AE title not in the peers table")
            return EVERYTHING if self._accepts_unknown else refused
        peer = _peer_at(self._peers[caller.calling], caller.address)
        if peer is None:
            return Refused(CALLING_AE_NOT_RECOGNISED, "address is none that the peers table has for this AE title")
        for rule in RULES:
            if rule.broken(caller, peer):
                return Refused(rule.reason, f"peers.{peer.name} {rule.why}")
        return frozenset(peer.services)

    def on_requested(self, event: Any) -> None:
        """Accept with the contexts that are permitted, or reject. Before it an association has no context at all.

        pynetdicom goes on when a handler of this event fails, so none may: what is unforeseen is a rejection.
        """
        association = event.assoc
        try:
            caller = _caller(association)
            decision = self.decide(caller)
            if isinstance(decision, Refused):
                logger.warning("association from %s refused: %s", _shown(caller), decision.why)
                self._auditor.refused("association", Party(caller.calling, str(caller.address)), decision.why)
                _reject(association, decision.reason)
            else:
                self._heard(caller.calling)
                _open(association, caller, decision)
        except Exception as error:  # noqa: BLE001 - see above
            logger.error("an association could not be decided on: %s", log.frames(error))
            _reject(association, NO_REASON_GIVEN)


def _reject(association: Any, reason: int) -> None:
    """A-ASSOCIATE-RJ, and the end of the connection: as pynetdicom's own negotiation rejects."""
    association.acse.send_reject(REJECTED_PERMANENT, SERVICE_USER, reason)
    association.kill()


def _open(association: Any, caller: Caller, services: frozenset[str]) -> None:
    """Let the negotiation see the contexts of these services only."""
    requestor = association.requestor
    opened = Opened(services, frozenset(str(uid) for uid, role in requestor.role_selection.items() if role.scp_role))
    asked = {str(context.abstract_syntax) for context in requestor.primitive.presentation_context_definition_list}
    denied = {PERMISSION_OF[uid] for uid in asked if uid in PERMISSION_OF and not opened.holds(uid)}
    if denied:
        logger.warning("association from %s: not permitted: %s", _shown(caller), ", ".join(sorted(denied)))
    association.permitted = services
    association.acceptor.supported_contexts = [
        context for context in association._server.contexts if opened.holds(str(context.abstract_syntax))
    ]


@dataclass(frozen=True)
class Opened:
    """The SOP classes that some permissions open. What a C-GET retrieves comes in storage contexts of its own role."""

    permitted: frozenset[str]
    scp_roles: frozenset[str] = frozenset()  # SOP classes for which the requestor proposes to be SCP, PS3.7 D.3.3.4

    def holds(self, sop_class_uid: str) -> bool:
        """Whether a context of this SOP class may be accepted."""
        needed = PERMISSION_OF.get(sop_class_uid, "")
        if needed in self.permitted:
            return True
        if needed == STORE:
            return GET in self.permitted and sop_class_uid in self.scp_roles
        return needed == PLAIN_QUERY and REGION_QUERY in self.permitted


def permitted(association: Any) -> frozenset[str]:
    """The services of an established association; none where nothing was decided."""
    services: frozenset[str] = getattr(association, "permitted", frozenset())
    return services


def guarded_find(service: Service) -> Service:
    """C-FIND for peers that may make plain queries, region queries or both. Another is 0x0124."""

    def serve(exchange: Exchange) -> None:
        allowed = permitted(exchange.association)
        if {PLAIN_QUERY, REGION_QUERY} <= allowed or (asked := _kind_of_query(exchange)) in allowed:
            service(exchange)
        else:
            words = {REGION_QUERY: "region queries are not permitted", PLAIN_QUERY: "plain queries are not permitted"}
            exchange.fail("C-FIND", NotPermitted(words[asked]))

    return serve


def guarded_stores(stores: Stores) -> Stores:
    """C-STORE for peers that may store. What another sends is read and dropped, and answered with 0x0124."""

    def receive(association: Any, request: StoreRequest) -> Arrival:
        if STORE in permitted(association):
            return stores(association, request)
        return Dropped(str(association.requestor.ae_title), NotPermitted("storing is not permitted"))

    return receive


def _kind_of_query(exchange: Exchange) -> str:
    try:
        return REGION_QUERY if private.carries_query(exchange.data_set()) else PLAIN_QUERY
    except IdentifierError:
        return PLAIN_QUERY


def _entries(peer: PeerSettings) -> list[Entry]:
    """The peer under each network that it may call from; under None when it may from anywhere."""
    return [(ipaddress.ip_network(network), peer) for network in peer.addresses] or [(None, peer)]


def _peer_at(entries: list[Entry], address: Address) -> PeerSettings | None:
    """Of the peers of one AE title that with the narrowest network around the address."""
    around = [(network.prefixlen if network else -1, peer) for network, peer in entries if _holds(network, address)]
    return max(around, key=itemgetter(0))[1] if around else None


def _holds(network: Network | None, address: Address) -> bool:
    return network is None or address in network


def _caller(association: Any) -> Caller:
    request = association.requestor.primitive
    names: frozenset[str] | None = getattr(association, "certificate_names", None)
    return Caller(
        calling=str(request.calling_ae_title).strip(),
        called=str(request.called_ae_title).strip(),
        address=address_of(association.requestor.address),
        tls=names is not None,
        certificate_names=names or frozenset(),
    )


def _shown(caller: Caller) -> str:
    """The caller for a log line; its AE titles are its own words."""
    return f"{log.printable(caller.calling)} ({caller.address}) to {log.printable(caller.called)}"
