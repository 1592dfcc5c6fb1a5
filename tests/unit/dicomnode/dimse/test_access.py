"""The peers table decides who may call from where, and what for."""

import ipaddress

import pytest

from dicomnode.dimse import access, contexts
from dicomnode.dimse.access import Access, Caller, Opened, Refused, address_of
from dicomnode.settings import SERVICES, DimseSettings, PeerSettings

CT = PeerSettings("CT", "CT1", addresses=("10.0.0.7",), services=("echo", "store"))
CT_AT_HOME = PeerSettings("HOME", "CT1", addresses=("192.168.0.0/16",), services=("echo",))
ANYWHERE = PeerSettings("WORK", "WORK1", services=("echo", "find"))
SECURE = PeerSettings("SAFE", "SAFE1", tls=True, certificate_name="safe1.example")
PEERS = (CT, CT_AT_HOME, ANYWHERE, SECURE)


def decide(peers=PEERS, settings=None, **caller):
    facts = {"calling": "CT1", "called": "DICOMNODE", "address": "10.0.0.7"} | caller
    facts["address"] = address_of(facts["address"])
    return Access(settings or DimseSettings(), peers).decide(Caller(**facts))


def test_without_a_table_everybody_may_do_everything():
    assert decide(()) == frozenset(SERVICES)


def test_with_a_table_an_unknown_caller_is_refused():
    refused = decide(calling="NOBODY")
    assert refused == Refused(access.CALLING_AE_NOT_RECOGNISED, "calling AE title not in the peers table")


@pytest.mark.parametrize(("policy", "peers", "accepted"), [("accept", PEERS, True), ("refuse", (), False)])
def test_the_policy_for_unknown_callers_can_be_told(policy, peers, accepted):
    decision = decide(peers, DimseSettings(unknown_peers=policy), calling="NOBODY")
    assert isinstance(decision, Refused) is not accepted


def test_a_known_ae_title_from_elsewhere_is_refused_even_where_unknown_ones_are_accepted():
    decision = decide(settings=DimseSettings(unknown_peers="accept"), address="10.0.0.8")
    assert isinstance(decision, Refused)
    assert "address" in decision.why


@pytest.mark.parametrize(
    ("address", "services"),
    [
        ("10.0.0.7", {"echo", "store"}),
        ("::ffff:10.0.0.7", {"echo", "store"}),
        ("192.168.3.4", {"echo"}),
        ("::ffff:192.168.3.4", {"echo"}),
    ],
)
def test_of_two_peers_with_one_ae_title_the_address_chooses(address, services):
    assert decide(address=address) == services


def test_the_narrowest_network_around_an_address_wins_whatever_the_order():
    nets = ("0.0.0.0/0", "10.0.0.0/8", "10.0.0.7")
    peers = [PeerSettings(net, "CT1", addresses=(net,), services=(SERVICES[i],)) for i, net in enumerate(nets)]
    everywhere = PeerSettings("any", "CT1", services=("commit",))
    for table in ((*peers, everywhere), (everywhere, *reversed(peers))):
        assert decide(table) == {SERVICES[2]}
        assert decide(table, address="10.9.9.9") == {SERVICES[1]}
        assert decide(table, address="11.9.9.9") == {SERVICES[0]}
        assert decide(table, address="fe80::1%eth0") == {"commit"}


@pytest.mark.parametrize(
    ("called", "settings", "accepted"),
    [
        ("OTHER", DimseSettings(), True),
        ("OTHER", DimseSettings(check_called_ae=True), False),
        ("DICOMNODE", DimseSettings(check_called_ae=True), True),
        ("REGIONMIR", DimseSettings(check_called_ae=True, called_ae_titles=("REGIONMIR",)), True),
    ],
)
def test_the_called_ae_title_counts_where_it_is_checked(called, settings, accepted):
    decision = decide(settings=settings, called=called)
    assert isinstance(decision, Refused) is not accepted
    assert accepted or decision.reason == access.CALLED_AE_NOT_RECOGNISED


@pytest.mark.parametrize(
    ("tls", "names", "words"),
    [
        (False, (), "peers.SAFE must call over TLS"),
        (True, (), "another name"),
        (True, ("other.example",), "another name"),
        (True, ("other.example", "safe1.example"), ""),
    ],
)
def test_a_peer_that_is_pinned_must_show_its_certificate(tls, names, words):
    decision = decide(calling="SAFE1", tls=tls, certificate_names=frozenset(names))
    assert words in decision.why if words else decision == frozenset(SERVICES)


def test_every_context_has_a_permission_that_exists():
    assert {service.permission for service in contexts.SERVICES} <= set(SERVICES)
    assert set(access.PERMISSION_OF) == {str(context.abstract_syntax) for context in contexts.accepted()}


FIND = "1.2.840.10008.5.1.4.1.2.2.1"
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize(
    ("services", "roles", "held"),
    [
        ({"echo"}, (), set()),
        ({"store"}, (), {CT_STORAGE}),
        ({"find"}, (), {FIND}),
        ({"query"}, (), {FIND}),
        ({"get"}, (), set()),
        ({"get"}, (CT_STORAGE,), {CT_STORAGE}),
        ({"move"}, (CT_STORAGE,), set()),
    ],
)
def test_permissions_open_their_contexts_and_no_others(services, roles, held):
    opened = Opened(frozenset(services), frozenset(roles))
    assert {uid for uid in (FIND, CT_STORAGE, "1.2.3") if opened.holds(uid)} == held


def test_an_ipv4_address_behind_an_ipv6_port_is_the_ipv4_address():
    assert address_of("::ffff:10.0.0.1") == ipaddress.ip_address("10.0.0.1")
    assert address_of("::1") == ipaddress.ip_address("::1")
