"""The parts of pynetdicom that are replaced or leaned on: a new version that moves one of them fails here first."""

import inspect
from importlib.metadata import version
from pathlib import Path

import pytest
from pynetdicom import AE, _config, acse, dimse_messages, fsm, transport
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider

from dicomnode.dimse.lane import LaneProvider

PROJECT = Path(__file__).resolve().parents[4]

# What we override or call, with the parameters that we count on.
METHODS = (
    (Association, "_serve_request", ["self", "msg", "context_id"]),
    (Association, "_run_reactor", ["self"]),
    (AE, "_create_socket", ["self", "assoc", "address", "tls_args"]),
    (DIMSEServiceProvider, "receive_primitive", ["self", "primitive"]),
    (DIMSEServiceProvider, "get_msg", ["self", "block"]),
    (DULServiceProvider, "send_pdu", ["self", "primitive"]),
    (DULServiceProvider, "__init__", ["self", "assoc"]),
    (DULServiceProvider, "_read_pdu_data", ["self"]),
    (DULServiceProvider, "run_reactor", ["self"]),
    (Association, "__init__", ["self", "ae", "mode"]),
    (dimse_messages.DIMSEMessage, "decode_msg", ["self", "primitive", "assoc"]),
    (fsm.StateMachine, "do_action", ["self", "event"]),
    (transport.AssociationSocket, "recv", ["self", "nr_bytes"]),
    (transport.AssociationSocket, "send", ["self", "bytestream"]),
    (acse.ACSE, "send_reject", ["self", "result", "source", "diagnostic"]),
)
# Private names that are read or set, and the source in which pynetdicom itself does so.
NAMES = (
    (Association, "_is_paused"),
    (Association, "_reactor_checkpoint"),
    (Association, "_accepted_cx"),
    (Association, "_server"),
    (DULServiceProvider, "_run_loop_delay"),
    (DULServiceProvider, "_idle_timer"),
    (DULServiceProvider, "to_provider_queue"),
    (DULServiceProvider, "to_user_queue"),
    (DULServiceProvider, "event_queue"),
    (DULServiceProvider, "_kill_thread"),
    (DULServiceProvider, "state_machine"),
    (DIMSEServiceProvider, "dul"),
    (Association, "acse_timeout"),
    (Association, "network_timeout"),
    (DIMSEServiceProvider, "msg_queue"),
    (DIMSEServiceProvider, "cancel_req"),
    (transport.AssociationSocket, "_is_connected"),
    (dimse_messages.DIMSEMessage, "encoded_command_set"),
)


def test_the_version_is_the_one_that_was_looked_at():
    pins = (PROJECT / "etc" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"pynetdicom=={version('pynetdicom')}" in pins


@pytest.mark.parametrize(("owner", "name", "parameters"), METHODS, ids=lambda each: getattr(each, "__name__", each))
def test_a_method_has_the_parameters_that_we_count_on(owner, name, parameters):
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


@pytest.mark.parametrize(("owner", "name"), NAMES, ids=lambda each: getattr(each, "__name__", each))
def test_a_private_name_is_still_used_by_its_owner(owner, name):
    assert f"self.{name}" in inspect.getsource(inspect.getmodule(owner))


def test_what_comes_is_read_by_the_one_method_that_the_lane_replaces():
    assert "self._read_pdu_data()" in inspect.getsource(DULServiceProvider._is_transport_event)


def test_a_fragment_of_an_established_association_goes_to_the_provider_and_changes_no_state():
    """What the lane does itself, instead of the action of Sta6 and Evt10."""
    assert fsm.TRANSITION_TABLE["Evt10", "Sta6"] == "DT-2"
    source = inspect.getsource(fsm.DT_2)
    assert "dul.assoc.dimse.receive_primitive(" in source
    assert 'return "Sta6"' in source


def test_the_reactor_asks_for_messages_without_waiting():
    """Where the wait of our own provider is."""
    assert "self.dimse.get_msg(block=False)" in inspect.getsource(Association._run_reactor)


def test_the_socket_tells_whether_it_is_ready_by_a_property():
    assert isinstance(transport.AssociationSocket.ready, property)


def test_patient_data_can_be_kept_out_of_its_log():
    assert {"LOG_REQUEST_IDENTIFIERS", "LOG_RESPONSE_IDENTIFIERS", "LOG_HANDLER_LEVEL"} <= set(vars(_config))


def test_an_upper_layer_that_ended_keeps_no_buffer(monkeypatch):
    """Until the garbage collector comes round it lies in a cycle of objects: a quarter of a MiB each would add up."""
    monkeypatch.setattr(DULServiceProvider, "run_reactor", lambda provider: None)
    provider = LaneProvider(Association(AE(), "acceptor"), stores=None)
    buffer = provider.lane.inflow.room().obj
    with pytest.raises(BufferError):  # somebody holds it
        buffer.clear()
    provider.start()
    provider.join()
    buffer.clear()
