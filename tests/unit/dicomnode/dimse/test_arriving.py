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
    arriving = provider.Arriving(1, clock)
    clock.now_s = provider.GRACE_S - 1
    arriving.check(1, 1, 2, AGREED)
    clock.now_s = provider.GRACE_S + 10
    with pytest.raises(provider.OutOfPlace, match="bytes a second"):
        arriving.check(1, 1, 2, AGREED)


def test_a_slow_line_is_no_attack():
    """A modem's 1.2 KB a second, for ten minutes."""
    clock = Clock()
    arriving = provider.Arriving(1, clock, is_store=True)
    for _ in range(600):
        clock.now_s += 1
        arriving.check(1, 0, 1200, AGREED)


@pytest.mark.parametrize(
    ("context_id", "control", "size", "words"),
    [
        (3, 1, 2, "another presentation context"),
        (5, 1, 2, "another presentation context"),
        (1, 0, 2, "out of order"),
        (1, 1, provider.COMMAND_IN_MEMORY + 1, "over"),
    ],
)
def test_a_fragment_out_of_place_is_refused(context_id, control, size, words):
    arriving = provider.Arriving(1)
    with pytest.raises(provider.OutOfPlace, match=words):
        arriving.check(context_id, control, size, AGREED)


def test_a_command_is_refused_once_it_is_there():
    arriving = provider.Arriving(1)
    single = provider.P_DATA()
    command = raw.command(raw.C_FIND_RQ, raw.STUDY_ROOT_FIND, has_data=True)
    single.presentation_data_value_list.append((1, b"\x03" + command))
    arriving.message.decode_msg(single)
    arriving.check(1, 0, 4, AGREED)
    with pytest.raises(provider.OutOfPlace, match="out of order"):
        arriving.check(1, 1, 4, AGREED)
