"""P-DATA of an accepted association in, C-STORE requests served at once, all other messages to pynetdicom. PS3.8 9.3.5.

pynetdicom makes some six objects and copies of each PDU and takes it through two threads and their polls. Here the
thread that reads the connection reads ahead into one buffer, writes what belongs to a data set from there to where it
is kept, and answers when it is. Whatever is no P-DATA of an established association is left to pynetdicom, untouched.

Memory bound: one buffer of `transport.AHEAD` bytes an association; a command or an identifier besides, under the
bounds of `provider`.
"""

import struct
import time
from collections.abc import Sequence
from typing import Final, Protocol

from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider

from dicomnode.dimse.provider import Arriving, MessageProvider, OutOfPlace
from dicomnode.dimse.transport import GuardedSocket, Inflow
from dicomnode.dimse.wire import StoreRequest

ESTABLISHED: Final = "Sta6"  # association established and ready for data transfer, PS3.8 9.2.1
LINGER_S: Final = 0.02  # how long the next message is waited for before pynetdicom's loop goes round
P_DATA_TF: Final = 0x04
_PDU, _VALUE = struct.Struct(">BxL"), struct.Struct(">LBB")  # PS3.8 9.3.5.1
_COMMAND, _LAST = 1, 2  # message control header, PS3.8 E.2


class Arrival(Protocol):
    """The data set of one C-STORE as it arrives. Nothing here raises: what went wrong is told at the end."""

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Take what came; `pieces` are good for the call only."""

    def end(self) -> tuple[int, str]:
        """Status and Error Comment, when the whole data set has come. PS3.4 B.2.3"""

    def close(self) -> None:
        """Forget what was not kept."""


class Stores(Protocol):
    """Whoever takes the data sets of C-STORE requests."""

    def __call__(self, association: Association, request: StoreRequest, /) -> Arrival: ...


class LaneProvider(DULServiceProvider):  # type: ignore[misc]
    """pynetdicom's upper layer, but for how an accepted association reads P-DATA."""

    def __init__(self, association: Association, stores: Stores) -> None:
        super().__init__(association)
        self.lane = Lane(self, stores)

    def run_reactor(self) -> None:
        """The upper layer's thread. What is left of it afterwards waits for the garbage collector, without a buffer."""
        try:
            super().run_reactor()
        finally:
            self.lane.release()

    def _read_pdu_data(self) -> None:
        """Something has come: as many P-DATA PDUs as follow each other closely, or one PDU of another kind."""
        if self.state_machine.current_state != ESTABLISHED:
            super()._read_pdu_data()
            return
        try:
            is_ours = self.lane.read()
        except OutOfPlace as error:
            self.assoc.dimse.refuse(str(error))
        except (OSError, EOFError):
            self.event_queue.put("Evt17")  # transport connection closed, PS3.8 9.2
        else:
            if not is_ours:
                super()._read_pdu_data()


class Lane:
    """The reader of one association's P-DATA, in the thread of its upper layer."""

    def __init__(self, dul: LaneProvider, stores: Stores) -> None:
        self._dul = dul
        self._stores = stores
        self.inflow = Inflow()
        self._deadline = 0.0  # of the PDU that is being read; monotonic, s
        self._request: StoreRequest | None = None
        self._arrival: Arrival | None = None
        self._pieces: list[memoryview] = []  # of its data set, in the buffer yet
        self._arriving: Arriving | None = None
        self._is_storing = False  # the last message was of a C-STORE, so that nobody else has anything to send

    def read(self) -> bool:
        """Messages until the connection is quiet or pynetdicom has something to do; False: what comes is not P-DATA.

        TimeoutError, EOFError, OSError: the connection is of no use. OutOfPlace: the peer broke the protocol.
        """
        connection: GuardedSocket = self._dul.socket
        connection.inflow = self.inflow
        connection.tick(on=True)
        try:
            while self._read_pdu(connection):
                wait_s = LINGER_S if self._is_storing else 0.0
                if self._is_wanted() or not (self.inflow or connection.comes_within(wait_s)):
                    return True
            return False
        finally:
            connection.tick(on=False)

    def abandon(self) -> None:
        """The association ended: a data set that was not complete is forgotten."""
        if self._arrival is not None:
            self._arrival.close()
            self._arrival = None
        self._pieces.clear()

    def release(self) -> None:
        """Nothing will be read any more."""
        self._pieces.clear()
        self.inflow.release()

    def _is_wanted(self) -> bool:
        """Whether pynetdicom's loop has to go round: something is to be sent, an event to be taken, or it shall end."""
        dul = self._dul
        return bool(dul.to_provider_queue.queue or dul.event_queue.queue or dul._kill_thread)

    def _read_pdu(self, connection: GuardedSocket) -> bool:
        """One P-DATA-TF PDU; False, and nothing taken, where another kind comes."""
        self._deadline = time.monotonic() + connection.pdu_timeout_s
        self._need(_PDU.size)
        kind, left = _PDU.unpack(self.inflow.peek(_PDU.size))
        if kind != P_DATA_TF:
            return False
        connection.check_size(left)
        self.inflow.take(_PDU.size)
        while left:
            left -= self._read_value(left)
        self._dul._idle_timer.restart()
        return True

    def _read_value(self, left: int) -> int:
        """One presentation data value of a PDU that has so many bytes left; how many it took."""
        if left < _VALUE.size:
            raise OutOfPlace("a value longer than its PDU")
        self._need(_VALUE.size)
        length, context_id, control = _VALUE.unpack(self.inflow.take(_VALUE.size))
        if length < 2 or length + 4 > left:
            raise OutOfPlace("a value longer than its PDU, or without a header")
        if self._arrival is None:
            self._message(context_id, control, length - 2)
        else:
            self._data(self._arrival, context_id, control, length - 2)
        return int(length) + 4

    def _message(self, context_id: int, control: int, size: int) -> None:
        """A fragment of a command set, or of a data set that is no instance."""
        fragment = bytearray((control,))
        while len(fragment) <= size:
            self._need(1)
            fragment += self.inflow.take(size + 1 - len(fragment))
        provider: MessageProvider = self._dul.assoc.dimse
        request = provider.receive(context_id, bytes(fragment))
        self._is_storing = request is not None
        if request is not None:
            self._open(request)

    def _open(self, request: StoreRequest) -> None:
        self._request = request
        self._arriving = Arriving(request.context_id, is_store=True)
        self._arrival = self._stores(self._dul.assoc, request)
        if not request.has_data:
            self._end(self._arrival)

    def _data(self, arrival: Arrival, context_id: int, control: int, size: int) -> None:
        """A fragment of an instance. It is passed on, with those before it, when the buffer is wanted for others."""
        assert self._arriving is not None
        self._arriving.check(context_id, control, size, self._dul.assoc)
        while size:
            self._need(1)
            piece = self.inflow.take(size)
            self._pieces.append(piece)
            size -= len(piece)
        if control & _LAST:
            self._pass_on(arrival)
            self._end(arrival)

    def _pass_on(self, arrival: Arrival) -> None:
        arrival.write(self._pieces)
        self._pieces.clear()

    def _end(self, arrival: Arrival) -> None:
        """The data set is complete: keep it, then answer. The peer is not silent meanwhile: it waits for us."""
        assert self._request is not None
        dul = self._dul
        dul._idle_timer.stop()
        self._arrival = None
        status, comment = arrival.end()
        dul.socket.tick(on=False)
        dul.socket.send(self._request.response(status, comment, dul.assoc.dimse.maximum_pdu_size))
        dul.socket.tick(on=True)
        dul._idle_timer.restart()

    def _need(self, size: int) -> None:
        if len(self.inflow) < size:
            if self._pieces and self._arrival is not None:
                self._pass_on(self._arrival)
            self._dul.socket.need(self.inflow, size, self._deadline)
