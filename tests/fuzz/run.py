"""A running node and a number of mutated objects in, what became of them out.

Most are C-STORE data sets; the rest are associations and C-FIND messages with bytes changed anywhere. Whatever is
sent, the node must answer or end the association within seconds; what it acknowledged must be there afterwards, byte
for byte, and end as indexed, not indexable or failed.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dicomnode.dimse.status import UNFORESEEN
from storage.store import Store
from tests import nodes, raw
from tests.encoded import implicit, nested
from tests.fuzz.mutate import mutated
from tests.fuzz.objects import Sample
from tests.nodes import RunningNode
from tests.raw import RawPeer, wait_until
from tests.watch import log_of, scratch_of

HANG_S = 15.0  # without an answer or an end; a cut PDU is waited for up to the node's own deadline
PDU_S = 2.0
# After an abort the node waits for the peer to close, up to the ACSE time-out (ARTIM, PS3.8 9.1.5).
ENVIRONMENT = {
    "DICOMNODE_DIMSE__PDU_TIMEOUT_S": str(PDU_S),
    "DICOMNODE_DIMSE__ACSE_TIMEOUT_S": str(PDU_S),
    "DICOMNODE_DIMSE__NETWORK_TIMEOUT_S": "6",
}
MESSAGES = 0.15  # the share that is no data set
CLOSED = 0.95  # the share of those after which the peer says that it has no more to say
IDENTIFIER = (
    implicit(0x00080005, b"ISO 2022 IR 6\\ISO 2022 IR 87")
    + implicit(0x00080020, b"19900101-20300101 ")
    + implicit(0x00080052, b"STUDY ")
    + implicit(0x00081030, b"*a?b*c")
    + implicit(0x00100010, b"\x1b$B;3ED\x1b(B^*=*")
    + implicit(0x0020000D, b"1.2.3\\1.2.4\\1.2.5 ")
    + nested(3, explicit=False)
)


@dataclass
class Report:
    """What became of the objects."""

    outcomes: Counter[str] = field(default_factory=Counter)
    acknowledged: dict[str, bytes] = field(default_factory=dict)  # UID -> the data set that was sent first
    worst_s: float = 0.0
    worst: str = ""
    grown_mib: float = 0.0
    wrong: list[str] = field(default_factory=list)  # each a violation

    def text(self) -> str:
        """The report as lines."""
        rows = [f"{count:6} {outcome}" for outcome, count in self.outcomes.most_common()]
        rows += [f"slowest: {self.worst_s:.2f} s, {self.worst}", f"receiver grew by {self.grown_mib:.0f} MiB"]
        return "\n".join([*rows, f"violations: {len(self.wrong)}", *self.wrong])


class Fuzz:
    """Sends mutated objects on associations that are opened again when the node ends them."""

    def __init__(self, node: RunningNode, samples: list[Sample], seed: int) -> None:
        self._node = node
        self._samples = samples
        self._rng = random.Random(seed)
        kinds = sorted({(each.sop_class_uid, each.transfer_syntax_uid) for each in samples})
        self._numbers = {kind: 2 * at + 7 for at, kind in enumerate(kinds)}
        proposed = [*raw.CONTEXTS, *((number, kind[0], (kind[1],)) for kind, number in self._numbers.items())]
        self._request = raw.request_body(b"".join(raw.context_item(*each) for each in proposed) + raw.user_item())
        self._peer: RawPeer | None = None
        self.report = Report()

    def run(self, objects: int, tell: Callable[[int, Report], None] = lambda *_: None) -> Report:
        """Send them all, then look at what is left. `tell` is called after each."""
        process = psutil.Process(self._node.process.pid)
        before = process.memory_info().rss
        for number in range(objects):
            started = time.monotonic()
            what = self._message() if self._rng.random() < MESSAGES else self._object(number)
            self._timed(time.monotonic() - started, what)
            tell(number + 1, self.report)
        self._close()
        self.report.grown_mib = (process.memory_info().rss - before) / (1 << 20)
        return self.report

    def _timed(self, took_s: float, what: str) -> None:
        if took_s > self.report.worst_s:
            self.report.worst_s, self.report.worst = took_s, what

    def _object(self, number: int) -> str:
        sample = self._rng.choice(self._samples).numbered(number)
        body = mutated(sample.data_set, self._rng, 3)
        context_id = self._numbers[sample.sop_class_uid, sample.transfer_syntax_uid]
        peer = self._associated()
        peer.send(raw.store_message(body, sample.uid, sample.sop_class_uid, context_id))
        outcome = self._answer(peer, f"{sample.name} #{number}")
        self.report.outcomes[f"C-STORE {outcome}"] += 1
        if outcome == "0x0000":
            self.report.acknowledged.setdefault(sample.uid, body)
        return f"C-STORE of {sample.name} #{number}: {outcome}"

    def _message(self) -> str:
        """A whole association as one stream of bytes, changed anywhere."""
        stream = raw.pdu(raw.ASSOCIATE_RQ, raw.request_body()) + self._rng.choice((
            raw.echo_message(),
            raw.find_message(IDENTIFIER),
            raw.find_message(mutated(IDENTIFIER, self._rng)),
            raw.store_message(self._samples[0].data_set[:3000], self._samples[0].uid),
        ))  # fmt: skip
        with RawPeer(self._node.port, HANG_S) as peer:
            peer.send(mutated(stream, self._rng, 2) + raw.pdu(raw.RELEASE_RQ, bytes(4)))
            if self._rng.random() < CLOSED:
                peer.finish()
            try:
                ended = peer.ended()
            except OSError:
                ended = True
        if not ended:
            self.report.wrong.append("a message hung")
        if b"Traceback" in peer.received or b".py" in peer.received:
            self.report.wrong.append("a traceback was sent")
        self.report.outcomes["message: association ended"] += ended
        return "a message"

    def _associated(self) -> RawPeer:
        if self._peer is None:
            self._peer = RawPeer(self._node.port, HANG_S)
            if self._peer.associate(self._request) != raw.ASSOCIATE_AC:
                raise AssertionError("the node accepts no association any more")
        return self._peer

    def _answer(self, peer: RawPeer, what: str) -> str:
        try:
            answer = peer.answer()
        except TimeoutError:
            self.report.wrong.append(f"{what} hung")
            answer = None
        if answer is None:
            self._close()
            return "association ended"
        if answer.status and not answer.comment:
            self.report.wrong.append(f"{what}: 0x{answer.status:04X} without a comment")
        if answer.comment == UNFORESEEN:
            self.report.wrong.append(f"{what}: the node did not foresee it")
        return f"0x{answer.status:04X}"

    def _close(self) -> None:
        if self._peer is not None:
            self._peer.socket.close()
            self._peer = None


def settle(node: RunningNode, timeout_s: float) -> None:
    """Wait until the workers have ended every job."""
    nodes.dicomnode("wait", "--root", node.root, "--timeout", str(timeout_s), timeout=timeout_s + 60, check=False)


def check(node: RunningNode, report: Report) -> dict[str, int]:
    """Add what is not as it must be to the report; the node's own counts."""
    if node.process.poll() is not None:
        report.wrong.append("the node ended")
    if "Traceback" in log_of(node):
        report.wrong.append("a traceback in the log")
    if not wait_until(lambda: scratch_of(node) == []):
        report.wrong.append(f"left over: {len(scratch_of(node))} scratch files")
    with Store.open(node.root) as store:
        report.wrong += [f"lost: {uid}" for uid, body in report.acknowledged.items() if not _kept(store, uid, body)]
        report.wrong += [f"{each}" for each in store.check()]
    status = nodes.answered("status", "--root", node.root)
    ended = sum(status[state] for state in ("indexed", "not_indexable", "failed"))
    if status["queued"] or ended != status["instances"] or status["instances"] != len(report.acknowledged):
        report.wrong.append(f"{len(report.acknowledged)} acknowledged, {status['instances']} stored, {ended} ended")
    report.wrong += [f"{row['state']} without a reason" for row in status["failures"] if not row["reason"]]
    return {state: status[state] for state in ("instances", "indexed", "not_indexable", "failed", "queued")}


def _kept(store: Store, uid: str, body: bytes) -> bool:
    row = store.catalog.instance(uid)
    return row is not None and _data_set_of(store.files.path(row.path)) == body


def _data_set_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[128 + 4 + 12 + int.from_bytes(content[140:144], "little") :]
