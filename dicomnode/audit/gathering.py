"""Instances that went somewhere in, one sum for each study, sender, receiver and outcome out.

An association that stores a study of a thousand slices is one event and not a thousand. Memory bound: MOST_KINDS sums,
each of the UIDs of MOST_INSTANCES instances at most: what goes beyond is handed out early.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dicomnode.audit.message import Participant

MOST_KINDS: Final = 1000
MOST_INSTANCES: Final = 10_000


@dataclass(frozen=True)
class Whose:
    """A study and its patient, as far as they are known."""

    study_instance_uid: str
    patient_id: str
    patient_name: str = ""
    accession: str = ""


@dataclass(frozen=True)
class Instance:
    """One instance that took part in an event."""

    whose: Whose
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Kind:
    """What is summed up: who sent instances of one study to whom, and how that went."""

    channel: int  # of an association, which ends; 0: of none
    participants: tuple[Participant, ...]
    whose: Whose
    action: str
    outcome: str


@dataclass
class Sum:
    """Instances of one kind: their UIDs by SOP class."""

    kind: Kind
    since: float  # monotonic, s
    uids: dict[str, set[str]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(map(len, self.uids.values()))

    @property
    def counts(self) -> dict[str, int]:
        """How many of each SOP class."""
        return {sop_class: len(uids) for sop_class, uids in self.uids.items()}


class Gathering:
    """Sums that are still growing. Safe for threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._sums: OrderedDict[Kind, Sum] = OrderedDict()

    def add(self, kind: Kind, instance: Instance) -> list[Sum]:
        """Count one instance; what has grown too much and is to be told of now."""
        with self._lock:
            found = self._sums.setdefault(kind, Sum(kind, self._clock()))
            found.uids.setdefault(instance.sop_class_uid, set()).add(instance.sop_instance_uid)
            full = [self._sums.pop(kind)] if found.size >= MOST_INSTANCES else []
            while len(self._sums) > MOST_KINDS:
                full.append(self._sums.popitem(last=False)[1])
        return full

    def of_channel(self, channel: int) -> list[Sum]:
        """What belongs to an association that has ended."""
        with self._lock:
            return [self._sums.pop(kind) for kind in list(self._sums) if kind.channel == channel]

    def older(self, channelless_s: float, any_s: float) -> list[Sum]:
        """What began so long ago: of no association, and of any."""
        now = self._clock()
        with self._lock:
            due = [
                kind
                for kind, each in self._sums.items()
                if now - each.since >= (any_s if kind.channel else channelless_s)
            ]
            return [self._sums.pop(kind) for kind in due]
