"""The query service: a question in, responses out, the same for every door (C-FIND, stored SR, HTTP)."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicomnode import private
from dicomnode.errors import DecodeError, ImageNotStored
from dicomnode.pixels import headers
from dicomnode.private import PatientScope
from dicomnode.query import answer, identifiers, kept, matching, region
from dicomnode.query.answer import Reported
from dicomnode.query.identifiers import Match
from dicomnode.query.kept import KeptAnswer
from dicomnode.query.keys import Model
from dicomnode.query.region import Place, RegionQuery
from dicomnode.query.search import Answer, RegionSearch
from dicomnode.settings import QuerySettings
from storage.store import Store


@dataclass(frozen=True)
class Question:
    """An identifier and what was negotiated around it."""

    identifier: Dataset
    patient_root: bool
    relational: bool = False
    combined_date_time: bool = False


@dataclass(frozen=True)
class Response:
    """One match, and whether every optional key of the question was supported (else 0xFF01)."""

    match: Match
    every_key_supported: bool = True
    is_plain: bool = True  # it answers a plain query, which does not say how many matches it wants


class QueryService:
    """Answers questions from the catalogue and the region search."""

    def __init__(
        self, store: Store, search: RegionSearch, settings: QuerySettings, retrieve_ae: str, place: Place = region.drawn
    ) -> None:
        """`place` puts regions that are not drawn on an image on one."""
        self._store = store
        self._search = search
        self._settings = settings
        self._retrieve_ae = retrieve_ae
        self._place = place

    def answer(self, question: Question) -> Iterator[Response]:
        """Responses, streamed. Raises what `dimse.status` maps, before the first response wherever that is possible."""
        if private.carries_query(question.identifier):
            return self._similar(question)
        return self._matching(question)

    def _matching(self, question: Question) -> Iterator[Response]:
        query = matching.parse(
            question.identifier,
            Model.PATIENT_ROOT if question.patient_root else Model.STUDY_ROOT,
            relational=question.relational,
            combined_date_time=question.combined_date_time,
        )
        found = identifiers.matches(self._store.catalog, query, self._retrieve_ae)
        return (Response(match, every_key_supported=not query.unsupported) for match in found)

    def ask_sr(self, document: Dataset) -> tuple[RegionQuery, Answer]:
        """What a stored SR asks, and the answer. Raises as `RegionSearch.ask` does, and RoiError, ImageNotStored."""
        scope, settings = PatientScope(self._settings.scope), self._settings
        matches = min(settings.default_matches, settings.maximum_matches)
        query = region.of_sr(document, scope, matches, self._place)
        return query, self._search.ask(query)

    def stored_sr(self, sop_instance_uid: str) -> Dataset:
        """A stored SR, whole. ImageNotStored, DecodeError."""
        row = self._store.catalog.instance(sop_instance_uid)
        if row is None:
            raise ImageNotStored("query SR not stored: send it first")
        try:
            return headers.document(self._store.files.path(row.path))
        except DecodeError:
            if self._store.catalog.instance(sop_instance_uid) is None:  # deleted just now
                raise ImageNotStored("query SR not stored: send it first") from None
            raise

    def _similar(self, question: Question) -> Iterator[Response]:
        hits = self._hits(question.identifier)
        found = answer.matches_of(hits, question.identifier, self._store.catalog, self._retrieve_ae)
        return (Response(match, is_plain=False) for match in found)

    def _hits(self, identifier: Dataset) -> Iterator[Reported]:
        """As kept for the SR that is named, where that says it all; else found now."""
        query = region.parse(
            identifier,
            self._asking_sr,
            self._settings.default_matches,
            self._settings.maximum_matches,
            self._place,
        )
        held = self._kept(query.named) if query.named else None
        if held is not None and kept.answers(held, query):
            return kept.reported(held, self._store.catalog, query.matches)
        return answer.reported(self._search.ask(query))

    def _kept(self, sop_instance_uid: str) -> KeptAnswer | None:
        """The kept answer to an SR, or of a result SR; None when it asked nothing, or waits, or failed."""
        questions = self._store.questions
        found = questions.of_sr(sop_instance_uid) or questions.of_report(sop_instance_uid)
        return kept.read(found.answer) if found is not None and found.answer is not None else None

    def _asking_sr(self, sop_instance_uid: str) -> Dataset:
        """The SR of that UID; of a result SR the one that it answers."""
        answered = self._store.questions.of_report(sop_instance_uid)
        return self.stored_sr(answered.sop_instance_uid if answered else sop_instance_uid)
