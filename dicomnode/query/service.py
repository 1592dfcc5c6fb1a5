"""The query service: a question in, responses out, the same for every door (C-FIND, stored SR, HTTP)."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicomnode import private
from dicomnode.config import QuerySettings
from dicomnode.errors import DecodeError, ImageNotStored
from dicomnode.pixels import headers
from dicomnode.query import answer, identifiers, matching, region
from dicomnode.query.answer import Similar
from dicomnode.query.identifiers import Match
from dicomnode.query.keys import Model
from dicomnode.query.search import RegionSearch
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

    match: Match | Similar
    every_key_supported: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether it answers a plain query, which does not say how many matches it wants."""
        return isinstance(self.match, Match)


class QueryService:
    """Answers questions from the catalogue and the region search."""

    def __init__(self, store: Store, search: RegionSearch, settings: QuerySettings, retrieve_ae: str) -> None:
        self._store = store
        self._search = search
        self._settings = settings
        self._retrieve_ae = retrieve_ae

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

    def _similar(self, question: Question) -> Iterator[Response]:
        query = region.parse(
            question.identifier, self._stored_sr, self._settings.default_matches, self._settings.maximum_matches
        )
        ranked = self._search.ask(query)
        found = answer.identifiers_of(ranked, question.identifier, self._store.catalog, self._retrieve_ae)
        return (Response(Similar(identifier)) for identifier in found)

    def _stored_sr(self, sop_instance_uid: str) -> Dataset:
        row = self._store.catalog.instance(sop_instance_uid)
        if row is None:
            raise ImageNotStored("query SR not stored: send it first")
        try:
            return headers.document(self._store.files.path(row.path))
        except DecodeError:
            if self._store.catalog.instance(sop_instance_uid) is None:  # deleted just now
                raise ImageNotStored("query SR not stored: send it first") from None
            raise
