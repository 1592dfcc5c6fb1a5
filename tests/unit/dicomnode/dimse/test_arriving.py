"""Fragments of a message: in order, of one context, in time."""

from types import SimpleNamespace

import pytest

from dicomnode.dimse import provider
from tests import raw

AGREED = SimpleNamespace(_accepted_cx={1: None, 3: None})


class Clock:
    """Time that a test turns."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_message_that_trickles_is_refused_after_the_grace():
    clock = Clock()
    arriving = provider._Arriving(1, clock)
    clock.now_s = provider.GRACE_S - 1
    arriving.check(1, b"\x01a", AGREED)
    clock.now_s = provider.GRACE_S + 10
    with pytest.raises(provider._OutOfPlace, match="bytes a second"):
        arriving.check(1, b"\x01a", AGREED)


def test_a_slow_line_is_no_attack():
    """A modem's 1.2 KB a second, for ten minutes."""
    clock = Clock()
    arriving = provider._Arriving(1, clock)
    arriving.message.__class__ = provider.C_STORE_RQ
    for _ in range(600):
        clock.now_s += 1
        arriving.check(1, bytes(1200), AGREED)


@pytest.mark.parametrize(
    ("context_id", "data", "words"),
    [
        (3, b"\x01a", "another presentation context"),
        (5, b"\x01a", "another presentation context"),
        (1, b"\x00a", "out of order"),
        (1, b"\x01" + bytes(provider.COMMAND_IN_MEMORY), "over"),
    ],
)
def test_a_fragment_out_of_place_is_refused(context_id, data, words):
    arriving = provider._Arriving(1)
    with pytest.raises(provider._OutOfPlace, match=words):
        arriving.check(context_id, data, AGREED)


def test_a_command_is_refused_once_it_is_there():
    arriving = provider._Arriving(1)
    single = provider.P_DATA()
    command = raw.command(raw.C_STORE_RQ, raw.DX, has_data=True, uid="1.2.3")
    single.presentation_data_value_list.append((1, b"\x03" + command))
    arriving.message.decode_msg(single)
    arriving.check(1, b"\x00abc", AGREED)
    with pytest.raises(provider._OutOfPlace, match="out of order"):
        arriving.check(1, b"\x01abc", AGREED)
