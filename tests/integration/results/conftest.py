"""Questions answered on a store without a node: result objects of several kinds, and who judges them."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicomnode.intake import Intake
from dicomnode.pixels.eligibility import DecodeLimits
from dicomnode.query.search import RegionSearch
from dicomnode.query.service import QueryService
from dicomnode.questions.keeper import QuestionKeeper
from dicomnode.questions.results import Results
from dicomnode.settings import LogSettings, QuerySettings, StorageSettings
from dicomnode.workers.drafts import ScribeSettings
from dicomnode.workers.embedding import FakeEncoder
from dicomnode.workers.scribe import ScribeProcess
from encoder.anatomy import VOCABULARY
from storage.records import Question
from storage.store import Store
from tests.conftest import _in_ci, _missing
from tests.integration import archives, asking

DIM = 128


@dataclass
class Desk:
    """Everything between a stored SR and its result objects."""

    store: Store
    scribe: ScribeProcess
    folder: Path
    films: list[Dataset]
    owed: list[str] = field(default_factory=list)

    def keeper(self, scope: str = "OTHER", notices: bool = True, holder: str = "keeper") -> QuestionKeeper:
        settings = QuerySettings(scope=scope, notices=notices)
        search = RegionSearch(self.store, FakeEncoder(DIM, len(VOCABULARY)))
        queries = QueryService(self.store, search, settings, "DICOMNODE")
        intake = Intake(self.store, StorageSettings(), lambda: None)
        results = Results(self.store, intake, self.scribe, "DICOMNODE")
        return QuestionKeeper(self.store, queries, results, settings, lambda _, uid: self.owed.append(uid), holder)

    def asked(self, document: Dataset, keeper: QuestionKeeper) -> str:
        """Store an SR that asks; its UID."""
        uid = archives.put(self.store, document, self.folder)
        assert keeper.ask(uid, "VIEWER")
        return uid

    def ended(self, document: Dataset, scope: str = "OTHER") -> Question:
        """The question, worked on until nothing is due."""
        keeper = self.keeper(scope)
        uid = self.asked(document, keeper)
        while keeper.step():
            pass
        found = self.store.questions.of_sr(uid)
        assert found is not None
        return found

    def file(self, uid: str | None) -> Path:
        return self.store.files.path(self.store.catalog.instance(uid).path)


@pytest.fixture(scope="session")
def scribe() -> Iterator[ScribeProcess]:
    process = ScribeProcess(ScribeSettings(DecodeLimits(), LogSettings()))
    yield process
    process.stop()


@pytest.fixture(scope="session")
def desk(scribe: ScribeProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Two films of the asking patient in different studies, and ten of others."""
    folder = tmp_path_factory.mktemp("desk")
    films = [asking.film(number, "ASKER-1" if number < 2 else "") for number in range(12)]
    asking.indexed(folder / "root", folder, films)
    with Store.open(folder / "root") as store:
        yield Desk(store, scribe, folder, films)


@pytest.fixture(scope="session")
def judge() -> Callable[[str], str]:
    """The path of a program that judges, by its name."""

    def found(program: str) -> str:
        path = shutil.which(program)
        if not path:
            _missing(f"{program} is not installed", fatal=_in_ci())
        return str(path)

    return found
