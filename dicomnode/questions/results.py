"""A kept answer in, its result objects as instances of the archive out: the SR that viewers draw, and the picture.

Without an answer: a notice that says why.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dicomnode.attributes.header import read_header
from dicomnode.errors import ImageNotStored
from dicomnode.intake import Intake
from dicomnode.query import kept
from dicomnode.query.kept import KeptAnswer, KeptHit
from dicomnode.quiet import quiet_pydicom
from dicomnode.sr.notice import notice
from dicomnode.sr.result import Facts, Place, ResultHit
from dicomnode.workers.drafts import PanelRequest, ReportRequest, Request, Source
from dicomnode.workers.scribe import ScribeProcess
from encoder.boxes import Box
from storage.records import InstanceRow, Question
from storage.store import Store

RequestFor = Callable[[Path], Request]
GONE: Final = "image was deleted after it was asked about"


@dataclass(frozen=True)
class Told:
    """An answer as it may be told to the asker, and what it is made of. Images that are gone are left out."""

    answer: KeptAnswer
    images: dict[str, InstanceRow]  # that hits are drawn on, by SOP Instance UID, the asking one first
    hits: tuple[tuple[ResultHit, KeptHit, InstanceRow], ...]  # the last: the film that it was found on


class Results:
    """Makes and keeps the result objects of answered questions."""

    def __init__(self, store: Store, intake: Intake, scribe: ScribeProcess, own_title: str) -> None:
        """`own_title`: the AE title that they come from."""
        self._store = store
        self._intake = intake
        self._scribe = scribe
        self._own_title = own_title

    def report(self, question: Question) -> str:
        """Make and keep the result SR unless it is there; its SOP Instance UID.

        ImageNotStored when the image was deleted; StorageError, ModelFailure, DecodeError, NotReady while stopping.
        """
        told = self._told(question)
        facts = _facts(question, question.report_uid, told.answer)
        headers = {uid: row.header for uid, row in told.images.items()}
        hits = tuple(hit for hit, _, _ in told.hits)
        return self._kept(lambda target: ReportRequest(headers, _asked(told), hits, facts, target), facts)

    def panel(self, question: Question) -> str:
        """The same for the result panel."""
        told = self._told(question)
        facts = _facts(question, question.panel_uid, told.answer)
        place, files, warnings = _asked(told), self._store.files, told.answer.warnings
        image = told.images[place.image_uid]
        shown = tuple((hit, Source(files.path(film.path), _inside(each.box, film))) for hit, each, film in told.hits)
        asked = Source(files.path(image.path), place.box, place.frame or 1)
        return self._kept(lambda target: PanelRequest(image.header, asked, shown, warnings, facts, target), facts)

    def notice(self, question: Question) -> str:
        """The same for the object that tells why there is no answer. ImageNotStored when the SR was deleted."""
        assert question.report_uid is not None, "a failure that is told has the UID of its notice"
        asking = self._store.catalog.instance(question.sop_instance_uid)
        if asking is None:
            raise ImageNotStored("SR was deleted after it had asked")
        with quiet_pydicom():
            told = notice(read_header(asking.header), question.reason, question.report_uid, _local(question.asked_at))
            return self._stored(question.report_uid, lambda path: told.save_as(path, enforce_file_format=True))

    def _kept(self, request_for: RequestFor, facts: Facts) -> str:
        """Written by the scribe, taken in as any instance."""
        return self._stored(facts.sop_instance_uid, lambda path: self._scribe.write(request_for(path)))

    def _stored(self, uid: str, write: Callable[[Path], object]) -> str:
        """An instance that `write` makes a file of, unless it is there."""
        if self._store.catalog.instance(uid) is None:
            with self._store.files.scratch() as made, self._intake.scratch() as scratch:
                write(made.path)
                scratch.write(made.path.read_bytes())
                self._intake.keep(scratch, self._own_title)
        return uid

    def _told(self, question: Question) -> Told:
        assert question.answer is not None, "only answered questions get here"
        answer = kept.read(question.answer)
        images = {uid: row for uid in _asking(answer) if (row := self._store.catalog.instance(uid)) is not None}
        if not images:
            raise ImageNotStored(GONE)
        hits = []
        for hit in answer.hits:
            film = self._store.catalog.instance(hit.sop_instance_uid)
            place = _place(hit, film, images)
            if film is not None and place is not None:
                images.setdefault(place.image_uid, film)
                hits.append((ResultHit(hit.rank, hit.score, hit.anatomy, place, hit.tracking_uid), hit, film))
        return Told(answer, images, tuple(hits))


def _asking(answer: KeptAnswer) -> Iterator[str]:
    """UIDs of the images that were asked about, in order."""
    yield from dict.fromkeys(roi.image_uid for roi in answer.rois)


def _place(hit: KeptHit, film: InstanceRow | None, images: dict[str, InstanceRow]) -> Place | None:
    """Where a hit may be drawn: of the asker's own patient where it is, else as the ROI that it answers."""
    asked = images.get(hit.roi.image_uid)
    if film is None or asked is None:
        return None
    if film.patient_row_id == asked.patient_row_id:
        return Place(film.sop_instance_uid, None, _inside(hit.box, film))
    return Place(asked.sop_instance_uid, hit.roi.frame, _inside(hit.roi.box, asked))


def _facts(question: Question, uid: str | None, answer: KeptAnswer) -> Facts:
    assert uid is not None, "an answered question has the UIDs of its result objects"
    at = question.answered_at or question.asked_at
    return Facts(uid, question.sop_instance_uid, answer.model, _local(at))


def _local(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC).astimezone()


def _asked(told: Told) -> Place:
    """The first ROI whose image is still there."""
    roi = next(roi for roi in told.answer.rois if roi.image_uid in told.images)
    return Place(roi.image_uid, roi.frame, _inside(roi.box, told.images[roi.image_uid]))


def _inside(box: Box, image: InstanceRow) -> Box:
    return box.clipped(float(image.columns or 0), float(image.rows or 0))
