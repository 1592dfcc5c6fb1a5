"""What doors and commands tell in, audit messages on a trail out. PS3.15 A.5.3.

Nothing here waits, and with no trail nothing costs. What a peer says of itself goes into a message as it is, escaped.
"""

import itertools
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from dicomnode import log
from dicomnode.audit import codes
from dicomnode.audit.codes import Code
from dicomnode.audit.gathering import Gathering, Instance, Kind, Sum, Whose
from dicomnode.audit.message import Message, Participant, Subject
from dicomnode.audit.trail import Trail
from dicomnode.rounds import Rounds
from storage.errors import StorageError
from storage.records import Outcome, StudyShare

logger = logging.getLogger(__name__)

GATHER_S: Final = 30.0  # over HTTP each picture is a request: those of one study and caller within this are one event
LONG_S: Final = 600.0  # an association that goes on for longer is told of in parts
POLL_S: Final = 5.0
AGAIN_S: Final = 900.0  # a caller over HTTP that was quiet for so long has logged in again
MOST_CALLERS: Final = 10_000  # that are remembered for that
MOST_QUERY: Final = 32 << 10  # bytes of a query that are kept: a syslog datagram has room for 64 KiB
PERSON, SYSTEM = "1", "2"  # ParticipantObjectTypeCode
PATIENT, REPORT, SECURITY_RESOURCE = "1", "3", "13"  # ParticipantObjectTypeCodeRole, PS3.15 A.5.1.2.2
# PS3.15 A.5.3.7: C where the receiver held none, R where it held them already, U where it changed what it held.
ACTIONS: Final[dict[Outcome, str]] = {
    "new": codes.CREATE, "identical": codes.READ, "kept": codes.READ, "replaced": codes.UPDATE, "refused": codes.READ,
}  # fmt: skip


@dataclass(frozen=True)
class Party:
    """Who takes part: a peer by its AE title or name, an account of this machine, or nobody known."""

    name: str
    address: str = ""  # IP
    is_ae: bool = True

    def participant(self, role: Code | None, *, is_requestor: bool) -> Participant:
        """As a message names it."""
        alternative = f"AETITLES={self.name}" if self.is_ae and self.name else ""
        return Participant(self.name or "unknown", is_requestor, role, self.address, alternative)


class Counts(Protocol):
    """What is counted beside being written down. Nobody is named."""

    def refused(self, door: str) -> None: ...

    def sent(self, count: int, *, failed: bool) -> None: ...


class Auditor:
    """Makes messages of what it is told. Safe for threads; `start` and `stop` for who gathers over time."""

    def __init__(
        self,
        trail: Trail | None,
        ae_title: str,
        counts: Counts | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`trail`: None when nothing is written down; `ae_title`: of the node; `counts`: told of what is counted."""
        self._trail = trail
        self._counts = counts
        self._ae_title = ae_title
        self._clock = clock
        self._gathering = Gathering()
        self._channels = itertools.count(1)
        self._callers: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._lock = threading.Lock()
        self._rounds = Rounds("audit-gathering", self._tell_older, POLL_S, "audit messages cannot be made")

    @property
    def is_on(self) -> bool:
        """Whether it is worth looking up what a message would say."""
        return self._trail is not None

    # --- the node itself -------------------------------------------------------------------------------------

    def start(self) -> None:
        """The node runs from now on. PS3.15 A.5.3.1."""
        self._record(codes.APPLICATION_ACTIVITY, codes.EXECUTE, [self._own(codes.APPLICATION)], codes.APPLICATION_START)
        self.gather()

    def gather(self) -> None:
        """Tell of what is summed up over time, from now on: in a process that is not the node itself, all there is."""
        if self.is_on:
            self._rounds.start()

    def finish(self) -> None:
        """Tell what was gathered."""
        self._rounds.stop()
        self._rounds.join()
        self._tell(self._gathering.older(0.0, 0.0))

    def stop(self) -> None:
        """The node has stopped; what was gathered is told."""
        self.finish()
        self._record(codes.APPLICATION_ACTIVITY, codes.EXECUTE, [self._own(codes.APPLICATION)], codes.APPLICATION_STOP)

    def configured(self, kind: Code, what: str, by: Party | None = None) -> None:
        """Settings, certificates or the live model have changed. PS3.15 A.5.3.11 Security Alert."""
        who = [self._own(codes.APPLICATION, is_requestor=by is None)]
        who += [] if by is None else [by.participant(None, is_requestor=True)]
        self._record(codes.SECURITY_ALERT, codes.EXECUTE, who, kind, subjects=[self._alert(what)])

    # --- who may -------------------------------------------------------------------------------------------------

    def refused(self, door: str, who: Party, why: str) -> None:
        """A peer was not let in at a door (association, tls, http). PS3.15 A.5.3.11, Node Authentication."""
        self.counted(door)
        people = [self._own(codes.APPLICATION), who.participant(None, is_requestor=True)]
        failed = {"outcome": codes.MINOR_FAILURE, "why": why}
        self._record(
            codes.SECURITY_ALERT,
            codes.EXECUTE,
            people,
            codes.NODE_AUTHENTICATION,
            subjects=[self._alert(why)],
            **failed,
        )

    def counted(self, door: str) -> None:
        """Somebody was turned away; no message says so: of a flood there would be one each."""
        if self._counts is not None:
            self._counts.refused(door)

    def logged_in(self, who: Party, failure: str = "") -> None:
        """Somebody showed a token, or a wrong one. PS3.15 A.5.3.12 User Authentication."""
        people = [who.participant(None, is_requestor=True), self._own(codes.APPLICATION)]
        outcome = codes.MINOR_FAILURE if failure else codes.SUCCESS
        self._record(codes.USER_AUTHENTICATION, codes.EXECUTE, people, codes.LOGIN, outcome=outcome, why=failure)

    def logged_out(self, who: Party) -> None:
        """Somebody ended a session."""
        people = [who.participant(None, is_requestor=True), self._own(codes.APPLICATION)]
        self._record(codes.USER_AUTHENTICATION, codes.EXECUTE, people, codes.LOGOUT)

    def seen(self, who: Party) -> None:
        """A caller was let in over HTTP: a login, when it had not asked for a while."""
        if self.is_on and self._is_back((who.name, who.address)):
            self.logged_in(who)

    def _is_back(self, caller: tuple[str, str]) -> bool:
        now = self._clock()
        with self._lock:
            last = self._callers.pop(caller, float("-inf"))
            self._callers[caller] = now
            while len(self._callers) > MOST_CALLERS:
                self._callers.popitem(last=False)
        return now - last >= AGAIN_S

    # --- what was asked --------------------------------------------------------------------------------------------

    def queried(self, who: Party, sop_class_uid: str, query: bytes, encoding: str, failure: str = "") -> None:
        """Somebody asked. PS3.15 A.5.3.10; `query`: as it came; `encoding`: its transfer syntax, or its media type."""
        people = [who.participant(codes.SOURCE, is_requestor=True), self._own(codes.DESTINATION)]
        details = [("TransferSyntax" if encoding.startswith("1.2.") else "MediaType", encoding.encode())]
        if len(query) > MOST_QUERY:
            details.append(("QueryLength", str(len(query)).encode()))
        asked = Subject(
            sop_class_uid, codes.SOP_CLASS_UID, SYSTEM, REPORT, query=query[:MOST_QUERY], details=tuple(details)
        )
        outcome = codes.MINOR_FAILURE if failure else codes.SUCCESS
        self._record(codes.QUERY, codes.EXECUTE, people, subjects=[asked], outcome=outcome, why=failure)

    # --- where instances went --------------------------------------------------------------------------------------

    def channel(self) -> int:
        """A new association's number: what it moves is told when it has ended."""
        return next(self._channels)

    def received(self, channel: int, sender: Party, instance: Instance, outcome: Outcome) -> None:
        """An instance was taken in; `channel`: 0 for one that came over HTTP."""
        people = (sender.participant(codes.SOURCE, is_requestor=True), self._own(codes.DESTINATION))
        self._gather(Kind(channel, people, instance.whose, ACTIONS[outcome], codes.SUCCESS), instance)

    def ended(self, channel: int) -> None:
        """An association is over."""
        self._tell(self._gathering.of_channel(channel))

    def sent(
        self, to: Party, instances: Iterable[Instance], *, asked_by: Party | None = None, failed: bool = False
    ) -> None:
        """Instances were sent, or could not be. `asked_by`: who had them sent there, where that is not the node.

        They may be looked up as they are read.
        """
        own = self._own(codes.SOURCE, is_requestor=asked_by is None)
        people: tuple[Participant, ...] = (own, to.participant(codes.DESTINATION, is_requestor=asked_by == to))
        if asked_by is not None and asked_by != to:
            people = (*people, asked_by.participant(None, is_requestor=True))
        outcome = codes.MINOR_FAILURE if failed else codes.SUCCESS
        try:
            for instance in instances if self.is_on else ():
                self._gather(Kind(0, people, instance.whose, codes.READ, outcome), instance)
        except StorageError as error:  # what was sent is sent: who asked for it shall not suffer
            logger.error("audit trail: what was sent could not be looked up: %s", log.frames(error))

    def counted_sent(self, count: int, *, failed: bool) -> None:
        """So many instances were sent, or could not be."""
        if self._counts is not None and count:
            self._counts.sent(count, failed=failed)

    def deleted(self, by: Party | None, study: StudyShare, *, whole: bool) -> None:
        """Instances of a study are gone: a whole study (PS3.15 A.5.3.8), or some of it (A.5.3.6). None: retention."""
        people = [self._own(codes.APPLICATION, is_requestor=by is None)]
        people += [] if by is None else [by.participant(None, is_requestor=True)]
        event = codes.STUDY_DELETED if whole else codes.INSTANCES_ACCESSED
        whose = Whose(study.study_instance_uid, study.patient_id, study.patient_name or "")
        self._record(event, codes.DELETE, people, subjects=_of_study(whose, {"": study.instances}))

    def _gather(self, kind: Kind, instance: Instance) -> None:
        if self.is_on:
            self._tell(self._gathering.add(kind, instance))

    def _tell_older(self) -> bool:
        self._tell(self._gathering.older(GATHER_S, LONG_S))
        return False

    def _tell(self, sums: Iterable[Sum]) -> None:
        for each in sums:
            kind = each.kind
            self._record(
                codes.INSTANCES_TRANSFERRED,
                kind.action,
                kind.participants,
                subjects=_of_study(kind.whose, each.counts),
                outcome=kind.outcome,
                why="" if kind.outcome == codes.SUCCESS else "could not be sent",
            )

    # --- what messages are made of ---------------------------------------------------------------------------------

    def _own(self, role: Code, *, is_requestor: bool = False) -> Participant:
        """This process. PS3.15 A.5.2.1: a process by its number, an AE by its title beside it."""
        return Participant(str(os.getpid()), is_requestor, role, alternative=f"AETITLES={self._ae_title}")

    def _alert(self, what: str) -> Subject:
        details = (("Alert Description", what.encode()),)
        return Subject(self._ae_title, codes.NODE_ID, SYSTEM, SECURITY_RESOURCE, self._ae_title, details=details)

    def _record(
        self,
        event: Code,
        action: str,
        participants: Iterable[Participant],
        kind: Code | None = None,
        *,
        subjects: Iterable[Subject] = (),
        outcome: str = codes.SUCCESS,
        why: str = "",
    ) -> None:
        if self._trail is None:
            return
        types = () if kind is None else (kind,)
        message = Message(event, action, self._clock(), tuple(participants), tuple(subjects), types, outcome, why)
        self._trail.record(message)


def _of_study(whose: Whose, instances: dict[str, int]) -> tuple[Subject, Subject]:
    study = Subject(
        whose.study_instance_uid,
        codes.STUDY_INSTANCE_UID,
        SYSTEM,
        REPORT,
        whose.study_instance_uid,
        accession=whose.accession,
        instances=instances,
    )
    return study, Subject(whose.patient_id, codes.PATIENT_NUMBER, PERSON, PATIENT, whose.patient_name)


def silent() -> Auditor:
    """One that writes nothing down."""
    return Auditor(None, "")
