"""PDUs and primitives in, the upper layer's states out: what no state foresees ends its association only. PS3.8 9.2."""

import logging
from contextlib import suppress

from pynetdicom.fsm import StateMachine
from pynetdicom.pdu import A_ABORT_RQ

from dicomnode.log import frames

logger = logging.getLogger(__name__)


class GuardedStates(StateMachine):  # type: ignore[misc]
    """pynetdicom's state machine. An exception of its own would end its thread, and leave the other one waiting."""

    def do_action(self, event: str) -> None:
        """The action of an event, or the end of the association."""
        try:
            super().do_action(event)
        except Exception as error:  # noqa: BLE001 - a peer's bytes: the log says where it went wrong
            logger.warning("association aborted: %s", frames(error))
            self._end()
        self.dul.assoc.dimse.stir()

    def _end(self) -> None:
        """Abort past the state machine, which is in no state to do it."""
        dul = self.dul
        abort = A_ABORT_RQ()
        abort.source, abort.reason_diagnostic = 0x02, 0x00  # the provider, no reason given
        with suppress(OSError, AttributeError):  # the connection may be gone
            dul.socket.send(abort.encode())
            dul.socket.close()
        dul.kill_dul()
        dul.assoc.is_established = False
        dul.to_user_queue.put(None)  # whoever waits for a primitive
