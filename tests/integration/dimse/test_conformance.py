"""The conformance statement against a running node: what it lists is negotiated, and nothing else is proposed."""

from itertools import islice
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from dicomnode.dimse import contexts, status
from tests import nodes

TOGETHER = 128  # contexts of one association
PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def stated():
    return nodes.answered("conformance")


def every_context(services):
    for service in services:
        for sop_class in service["sop_classes"]:
            for syntax in service["transfer_syntaxes"]:
                yield sop_class, syntax


def test_every_context_that_is_stated_is_negotiated(node, stated):
    wanted = every_context(stated["services"])
    count = 0
    while batch := list(islice(wanted, TOGETHER)):
        entity = AE()
        entity.requested_contexts = [build_context(*each) for each in batch]
        association = entity.associate("127.0.0.1", node.port, ae_title="DICOMNODE")
        accepted = {(str(cx.abstract_syntax), str(cx.transfer_syntax[0])) for cx in association.accepted_contexts}
        association.release()
        assert accepted == set(batch)
        count += len(batch)
    assert count == sum(len(each["sop_classes"]) * len(each["transfer_syntaxes"]) for each in stated["services"])
    assert count > 5_000


def test_what_is_not_stated_is_not_negotiated(node, stated):
    stated_classes = {uid for service in stated["services"] for uid in service["sop_classes"]}
    others = ["1.2.840.10008.5.1.1.9", "1.2.840.10008.5.1.4.31", "1.2.840.10008.3.1.2.3.3", "1.2.3.4.5.6"]
    assert not stated_classes & set(others)
    entity = AE()
    entity.requested_contexts = [build_context(uid) for uid in (*others, "1.2.840.10008.1.1")]
    association = entity.associate("127.0.0.1", node.port, ae_title="DICOMNODE")
    assert [str(cx.abstract_syntax) for cx in association.accepted_contexts] == ["1.2.840.10008.1.1"]
    association.release()


def test_the_statement_in_the_documents_is_what_the_program_prints():
    printed = nodes.dicomnode("conformance").stdout
    assert (PROJECT / "docs" / "conformance.md").read_text(encoding="utf-8") == printed


def test_every_status_and_service_is_explained():
    codes = {value for name, value in vars(status).items() if name.isupper() and type(value) is int} - {
        status.COMMENT_LENGTH
    }
    names = {service.name for service in contexts.SERVICES}
    assert {row.code for row in status.MEANINGS} == codes
    assert {name for row in status.MEANINGS for name in row.services} == names
    assert {code for _, code in status.STATUS_OF} <= codes
    assert {use.service for use in contexts.USES} <= names


COMMANDS = (
    ["echo"],
    ["query", "--image", "1.2.3", "--box", "1,2,30,40"],
    ["fetch", "--study", "1.2.3"],
    ["fetch", "--patient", "P1"],
    ["fetch", "--study", "1.2.3", "--move-to", "SOMEBODY"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:1] + command[-2:-1]))
def test_a_command_proposes_what_is_stated_and_nothing_else(stated, command, tmp_path):
    """An SCP that only listens: it sees the contexts, and rejects."""
    proposed = []

    def on_requested(event):
        request = event.assoc.requestor.primitive
        proposed.extend(
            (str(cx.abstract_syntax), str(syntax))
            for cx in request.presentation_context_definition_list
            for syntax in cx.transfer_syntax
        )
        event.assoc.acse.send_reject(0x01, 0x01, 0x01)
        event.assoc.kill()

    entity = AE()
    entity.supported_contexts = [build_context("1.2.840.10008.1.1")]
    handlers = [(evt.EVT_REQUESTED, on_requested)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        name, *flags = command
        to = ["--to", str(tmp_path)] if name == "fetch" and "--move-to" not in flags else []
        nodes.dicomnode(name, f"127.0.0.1:{server.server_address[1]}", *flags, *to, check=False)
    finally:
        server.shutdown()
    assert proposed
    assert set(proposed) <= set(every_context(stated["uses"]))
