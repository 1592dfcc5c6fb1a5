"""Questions that are due in, kept answers and their result objects out, in a thread of its own.

An SR is a row (`storage.questions`) before it is acknowledged. One whose image is not here yet waits, as the order of
C-STORE is not guaranteed. The answer is kept first, then its objects are stored, then peers are owed them: killed
anywhere, what is done is not done again. Who gets no answer is told why by an object, too. Of several nodes on one
database the one that holds a question's lease works on it.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicomnode import log
from dicomnode.attributes.header import read_header
from dicomnode.attributes.values import charset_of, texts
from dicomnode.audit.auditor import Auditor, Party, silent
from dicomnode.errors import (
    DecodeError,
    DicomNodeError,
    IdentifierError,
    ImageNotStored,
    InvalidInstance,
    NotReady,
    PatientConflict,
    RoiError,
)
from dicomnode.query import kept
from dicomnode.query.region import RegionQuery
from dicomnode.query.service import QueryService
from dicomnode.questions.results import Results
from dicomnode.rounds import Rounds
from dicomnode.settings import QuerySettings
from dicomnode.sr.notice import notice_uid
from dicomnode.sr.result import is_result
from dicomnode.uids import new_uid
from storage.errors import LeaseLost
from storage.leases import named
from storage.records import Question
from storage.store import Store

logger = logging.getLogger(__name__)

_PATIENT_ID: Final = Tag(0x0010, 0x0020)
HOLDER: Final = "keeper"  # where no other node is on the database
POLL_S: Final = 1.0
LEASE_S: Final = 600.0  # of one step; one that takes longer is done again by who has it then, and this one's is lost
RETRY_S: Final = 2.0  # between looks for an image that is not here yet
FAILED_RETRY_S: Final = (2.0, 10.0, 60.0)  # after what should not have happened; then it is given up
UNFORESEEN: Final = "unable to process: see the node's log"
SEVERAL_PATIENTS: Final = "SR is about images of several patients"
RESULT: Final = "SR is a result of a region search"
ANOTHER_PATIENT: Final = "SR names another patient than its image"


class QuestionKeeper:
    """Answers what is asked by storing SRs. `ask` is safe for threads."""

    def __init__(
        self,
        store: Store,
        queries: QueryService,
        results: Results,
        settings: QuerySettings,
        owe: Callable[[Question, str], None],
        holder: str = HOLDER,
        auditor: Auditor | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`owe` is told of each result object that is stored, and of the question that it answers.

        `holder`: the name of this node among those on its database.
        """
        self._store = store
        self._queries = queries
        self._results = results
        self._wait_s = settings.wait_s
        self._tells = settings.notices
        self._holder, self._owner = holder, named(holder)
        self._steps = {"waiting": self._answer, "answered": self._make, "failed": self._tell}
        self._owe = owe
        self._auditor = auditor or silent()
        self._clock = clock
        self._rounds = Rounds("question-keeper", self.step, POLL_S, "questions cannot be answered")

    def ask(self, sop_instance_uid: str, source_ae: str) -> bool:
        """A stored SR asks; durable on return. `source_ae`: who is to get the answer; empty: nobody by C-STORE.

        False when it has asked already, or is an answer itself.
        """
        fresh = self._store.questions.ask(sop_instance_uid, source_ae)
        self._rounds.wake()
        return fresh

    def start(self) -> None:
        """Go on with what an earlier run left, and then with what is asked."""
        self._store.questions.hasten(self._holder)
        self._rounds.start()

    def stop(self) -> None:
        """Begin nothing new; what fails from now on is done again after the next start."""
        self._rounds.stop()

    def join(self) -> None:
        """Wait for what is in hand: not long once the processes that it waits for have ended."""
        self._rounds.join()
        self._store.questions.release(self._owner)

    def step(self) -> bool:
        """The next step of the question that has waited longest: its answer, or its objects. False when none is due."""
        question = self._store.questions.claim(self._owner, LEASE_S)
        if question is not None:
            self._work(question)
        return question is not None

    def _work(self, question: Question) -> None:
        try:
            self._try(question)
        except LeaseLost:
            logger.warning("question %s: deleted, or in other hands by now", question.sop_instance_uid)

    def _try(self, question: Question) -> None:
        try:
            self._steps[question.state](question)
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 - a question must end, and others shall not wait for it
            if not self._rounds.stopping:  # what is ended in the middle is done again after the next start
                self._not_done(question, error)

    def _not_done(self, question: Question, error: Exception) -> None:
        if isinstance(error, ImageNotStored | NotReady):
            self._wait(question, error)
        elif isinstance(error, IdentifierError | DecodeError | InvalidInstance | PatientConflict):
            self._give_up(question, str(error))
        else:
            logger.error("question %s: %s", question.sop_instance_uid, log.frames(error))
            self._try_again(question, str(error) if isinstance(error, DicomNodeError) else UNFORESEEN)

    def _answer(self, question: Question) -> None:
        document = self._queries.stored_sr(question.sop_instance_uid)
        if is_result(document):
            raise RoiError(RESULT)
        query, answer = self._queries.ask_sr(document)
        self._check_patient(document, query)
        values = kept.written(query, answer, new_uid)
        self._store.questions.answer(question, values, new_uid(), new_uid())
        self._audit(question)
        logger.info("question %s answered: %d hits", question.sop_instance_uid, len(answer.hits))

    def _audit(self, question: Question, failure: str = "") -> None:
        """The SR is the query: its UID is written down, and it is in the archive."""
        row = self._store.catalog.instance(question.sop_instance_uid) if self._auditor.is_on else None
        if row is not None:
            who, uid = Party(question.source_ae), question.sop_instance_uid.encode()
            self._auditor.queried(who, row.sop_class_uid, uid, row.transfer_syntax_uid, failure)

    def _check_patient(self, document: Dataset, query: RegionQuery) -> None:
        """RoiError unless the SR and all its images are of one patient: an answer shows them together."""
        found = (self._store.catalog.instance(roi.image_uid) for roi in query.rois)
        images = {row.id: row for row in found if row is not None}
        if len({row.patient_row_id for row in images.values()}) > 1:
            raise RoiError(SEVERAL_PATIENTS)
        stated = _patient_of(document)
        for image in images.values():
            if stated and stated not in {image.patient_id, _patient_of(read_header(image.header))}:
                raise RoiError(ANOTHER_PATIENT)

    def _make(self, question: Question) -> None:
        """The SR first: it is what viewers wait for."""
        for make in (self._results.report, self._results.panel):
            self._owe(question, make(question))
        self._store.questions.finish(question)

    def _tell(self, question: Question) -> None:
        """Why there is no answer."""
        self._owe(question, self._results.notice(question))
        self._store.questions.end(question)

    def _wait(self, question: Question, error: Exception) -> None:
        if question.state != "waiting":
            self._give_up(question, str(error))
        elif self._clock() - question.asked_at >= self._wait_s:
            self._give_up(question, f"{error} (waited {self._wait_s:g} s)")
        else:
            self._store.questions.postpone(question, RETRY_S, str(error))

    def _try_again(self, question: Question, reason: str) -> None:
        if question.attempts < len(FAILED_RETRY_S):
            why = question.reason if question.state == "failed" else reason
            self._store.questions.postpone(question, FAILED_RETRY_S[question.attempts], why)
        else:
            self._give_up(question, reason)

    def _give_up(self, question: Question, reason: str) -> None:
        """Without a result SR it has failed; with one, what is missing is said. A kept answer stays."""
        logger.warning("question %s: %s", question.sop_instance_uid, log.printable(reason))
        if question.state == "waiting":
            self._audit(question, reason)
        if question.state == "failed":
            self._store.questions.end(question)
        elif question.report_uid and self._store.catalog.instance(question.report_uid):
            self._store.questions.finish(question, reason)
        else:
            self._store.questions.fail(question, reason, self._notice_uid(question, reason))

    def _notice_uid(self, question: Question, reason: str) -> str | None:
        """Of the object that tells the asker; None for who is not to be told.

        A result that came back has no asker, and into the study of another patient than the SR's nothing is put.
        """
        if not self._tells or reason in {RESULT, ANOTHER_PATIENT}:
            return None
        row = self._store.catalog.instance(question.sop_instance_uid)
        if row is None or _patient_of(read_header(row.header)) not in {"", row.patient_id}:
            return None
        return notice_uid(question.sop_instance_uid, reason)


def _patient_of(dataset: Dataset) -> str:
    """Its Patient ID; empty when it has none."""
    return next(iter(texts(dataset, _PATIENT_ID, charset_of(dataset))), "")
