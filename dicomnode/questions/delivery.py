"""Result objects that peers are owed in, C-STORE requests to them out, in a thread of its own.

A peer that cannot be reached is called again for a day, across restarts. What a peer refuses, by a status, by taking no
presentation context or by rejecting the association for good, is never sent to it again.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from dicomnode import log
from dicomnode.audit import subjects
from dicomnode.audit.auditor import Auditor, Party, silent
from dicomnode.dimse import suboperations
from dicomnode.dimse.outgoing import Caller
from dicomnode.dimse.suboperations import Origin, Outcome, Sender, Shelf
from dicomnode.dimse.wire import Writer
from dicomnode.errors import PeerError, PeerRefused
from dicomnode.query.retrieval import Stored
from dicomnode.rounds import Rounds
from dicomnode.settings import PeerSettings
from storage.errors import LeaseLost
from storage.leases import named
from storage.records import Delivery, Question
from storage.store import Store

logger = logging.getLogger(__name__)

RETRY_S: Final = (2.0, 15.0, 60.0, 300.0, 900.0, 3600.0)  # between attempts, the last again and again
GIVE_UP_S: Final = 86_400.0
HOLDER: Final = "delivery"  # where no other node is on the database
POLL_S: Final = 1.0
LEASE_S: Final = 600.0  # of one object: an association's time-outs are shorter
_MEDIUM: Final = 0x0000  # Priority, PS3.7 9.3.1.1


class DeliveryService:
    """Sends what is owed."""

    def __init__(
        self,
        store: Store,
        shelf: Shelf,
        caller: Caller,
        peers: tuple[PeerSettings, ...],
        results_to: str = "",
        holder: str = HOLDER,
        auditor: Auditor | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`results_to`: the AE title that all results go to; empty: to who asked.

        `holder`: the name of this node among those on its database.
        """
        self._store = store
        self._holder, self._owner = holder, named(holder)
        self._shelf = shelf
        self._caller = caller
        self._peers = {peer.ae_title: peer for peer in reversed(peers) if peer.host}
        self._results_to = results_to
        self._auditor = auditor or silent()
        self._clock = clock
        self._rounds = Rounds("result-delivery", self._step, POLL_S, "results cannot be sent")

    def owe(self, question: Question, sop_instance_uid: str) -> None:
        """Keep that a result object is to be sent, where the peers table says where to; durable on return."""
        title = self._results_to or question.source_ae
        if title in self._peers:
            self._store.deliveries.owe(question.id, sop_instance_uid, title)
            self._rounds.wake()

    def start(self) -> None:
        """Send what an earlier run owed, and then what becomes due."""
        self._store.deliveries.hasten(self._holder)
        self._rounds.start()

    def stop(self) -> None:
        """End the thread; what it is sending is sent again after the next start."""
        self._rounds.stop()
        self._rounds.join()
        self._store.deliveries.release(self._owner)

    def _step(self) -> bool:
        delivery = self._store.deliveries.claim(self._owner, LEASE_S)
        if delivery is not None:
            self._work(delivery)
        return delivery is not None

    def _work(self, delivery: Delivery) -> None:
        try:
            self._deliver(delivery)
        except LeaseLost:
            self._say(delivery, "deleted, or in other hands by now")

    def _deliver(self, delivery: Delivery) -> None:
        """One attempt."""
        peer = self._peers.get(delivery.ae_title)
        row = self._store.catalog.instance(delivery.sop_instance_uid)
        if peer is None or row is None:
            why = "it is no longer stored" if row is None else "the peer is no longer configured"
            self._refused(delivery, why)
            return
        stored = Stored(row.sop_instance_uid, row.sop_class_uid, row.transfer_syntax_uid, row.path, row.size)
        try:
            self._end(delivery, *self._send(peer, stored))
        except PeerRefused as error:
            self._refused(delivery, str(error))
        except PeerError as error:
            self._try_again(delivery, str(error))
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 - others shall not wait for it
            logger.error("result %s: %s", delivery.sop_instance_uid, log.frames(error))
            self._try_again(delivery, "unable to process: see the node's log")

    def _send(self, peer: PeerSettings, stored: Stored) -> tuple[Outcome, int | None]:
        """What became of it, and the status of the response; None when it was not sent."""
        ((_, proposed),) = suboperations.batches([stored])
        timeout_s = self._caller.settings.network_timeout_s
        with self._caller.association(peer, proposed) as association, Writer(association) as writer:
            sender = Sender(association, writer, self._shelf, Origin(_MEDIUM), timeout_s, self._watch)
            return sender.send(stored), sender.answered

    def _watch(self) -> None:
        if self._rounds.stopping:
            raise PeerError("the node is stopping")

    def _end(self, delivery: Delivery, outcome: Outcome, status: int | None) -> None:
        self._audit(delivery, failed=outcome is Outcome.FAILED)
        if outcome is Outcome.FAILED:
            why = "it cannot be sent as it is stored" if status is None else f"refused with 0x{status:04X}"
            self._refused(delivery, why)
            return
        self._store.deliveries.end(delivery, "sent")
        logger.info("result %s sent to %s", delivery.sop_instance_uid, log.printable(delivery.ae_title))

    def _audit(self, delivery: Delivery, *, failed: bool) -> None:
        self._auditor.counted_sent(1, failed=failed)
        if self._auditor.is_on:
            found = subjects.named(self._store.catalog, [delivery.sop_instance_uid])
            self._auditor.sent(Party(delivery.ae_title), found, failed=failed)

    def _refused(self, delivery: Delivery, why: str) -> None:
        self._store.deliveries.end(delivery, "refused", why)
        self._say(delivery, why)

    def _try_again(self, delivery: Delivery, why: str) -> None:
        if self._rounds.stopping:
            return
        if self._clock() - delivery.owed_at > GIVE_UP_S:
            self._store.deliveries.end(delivery, "given up", why)
            self._say(delivery, f"{why}; given up after {delivery.attempts + 1} attempts")
            return
        delay_s = RETRY_S[min(delivery.attempts, len(RETRY_S) - 1)]
        self._store.deliveries.postpone(delivery, delay_s, why)
        self._say(delivery, f"{why}; again in {delay_s:g} s")

    def _say(self, delivery: Delivery, why: str) -> None:
        where = (delivery.sop_instance_uid, log.printable(delivery.ae_title), log.printable(why))
        logger.warning("result %s not sent to %s: %s", *where)
