"""Why a hit is one: what is covered, what it is compared with, and what is said when it cannot be; models made up."""

from dataclasses import replace

import numpy as np
import pytest

from dicomnode.errors import DecodeError, IdentifierError, ImageNotStored, ModelFailure, NotReady
from dicomnode.query.occlusion import BATCH, Explainer, Pair, Side
from dicomnode.settings import QuerySettings
from dicomnode.workers.embedding import FakeEncoder
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.local import LocalMap
from storage.records import Equals
from storage.store import Store
from tests.unit.dicomnode.query import test_local as made
from tests.unit.dicomnode.query.test_local import BOXES, DIM, HEART, NODULE, UPPER

HEART_BOX = Box(*BOXES[HEART])
CORNER = Box(350.0, 335.0, 400.0, 380.0)  # of the heart: its lower right
LARGE = Pair("1.2.0", 1, HEART_BOX, "1.2.1", HEART.index, is_place=False)
SMALL = Pair("1.2.0", 1, Box(*NODULE), "1.2.1", UPPER.index, is_place=True)
AREA = Box(0.0, 0.0, 512.0, 512.0)


@pytest.fixture
def archive(tmp_path):
    """Film 0 asks with a nodule in its upper zone; film 1 has one like it elsewhere; film 2 has no local features."""
    with Store.open(tmp_path) as store:
        made.start(store)
        made.add(store, 0, made.film(0, NODULE[:2]))
        made.add(store, 1, made.film(1, (200, 40)), angle=0.3)
        made.add(store, 2, angle=0.2)
        yield store


def explainer(store, encoder=None, **settings):
    return Explainer(store, encoder or fake(), replace(QuerySettings(), **settings), pause=lambda _: None)


def fake(**changes):
    return FakeEncoder(DIM, len(VOCABULARY), **changes)


def peak(explanation):
    """The cell of the largest cost, as a place on the film."""
    row, column = np.unravel_index(explanation.costs.argmax(), explanation.costs.shape)
    rows, columns = explanation.costs.shape
    box = explanation.box
    return box.x1 + (column + 0.5) * box.width / columns, box.y1 + (row + 0.5) * box.height / rows


def inside(place, box):
    return box.x1 <= place[0] <= box.x2 and box.y1 <= place[1] <= box.y2


class Seeing(FakeEncoder):
    """Its vector of an uncovered region is the stored one, and turns away from it as `sees` is covered."""

    def embed(self, request):
        found = super().embed(request)
        return replace(found, vectors={"anatomy": np.stack([made.unit(1)] * len(request.boxes))})


@pytest.mark.parametrize(("side", "uid"), [(Side.ASKED, "1.2.0"), (Side.FOUND, "1.2.1")])
def test_the_map_peaks_where_the_model_looks_and_is_flat_elsewhere(archive, side, uid):
    encoder = Seeing(DIM, len(VOCABULARY), sees=CORNER)
    found = explainer(archive, encoder).explain(LARGE, side)
    assert (found.image_uid, found.frame, found.box) == (uid, 1, HEART_BOX)
    assert found.costs.shape == (6, 7)
    assert inside(peak(found), CORNER)
    assert np.abs(found.costs[:3]).max() < 1e-6
    assert found.score == pytest.approx(np.cos(0.3) if side is Side.ASKED else 1.0, abs=1e-3)
    assert 0 < found.costs.max() <= found.largest
    assert {request.file for request in encoder.covered} == {archive.files.path(archive.catalog.instance(uid).path)}


def test_covers_are_asked_for_a_few_at_a_time_with_a_pause_in_between(archive):
    encoder, pauses = fake(), []
    whole = Explainer(archive, encoder, QuerySettings(), pause=pauses.append)
    whole.explain(LARGE, Side.ASKED)
    asked = [request.numbers for request in encoder.covered]
    assert asked == [(start, start + BATCH) for start in range(0, 32, BATCH)]
    assert len(pauses) == len(asked) - 1


def test_what_was_explained_is_kept_and_each_side_is_its_own(archive):
    encoder = fake()
    one = explainer(archive, encoder)
    first = one.explain(LARGE, Side.ASKED)
    count = len(encoder.covered)
    assert one.explain(LARGE, Side.ASKED) is first
    assert len(encoder.covered) == count
    assert one.explain(LARGE, Side.FOUND) is not first
    assert one.version(LARGE, Side.ASKED) != one.version(LARGE, Side.FOUND)


@pytest.mark.parametrize(("side", "number"), [(Side.ASKED, 0), (Side.FOUND, 1)])
def test_a_small_roi_is_explained_by_the_cells_of_its_place(archive, side, number):
    """Covered cells say nothing: the score falls by their share, wherever they lie in the pattern."""
    at = [NODULE[:2], (200, 40)][number]
    encoder = fake(local=LocalMap(made.film(number, at), AREA))
    found = explainer(archive, encoder).explain(SMALL, side)
    assert found.box == (Box(*NODULE) if side is Side.ASKED else Box(200.0, 40.0, 232.0, 64.0))
    assert found.score == pytest.approx(1.0, abs=1e-3)
    assert found.whole == pytest.approx(1.0, abs=1e-3)
    assert found.costs.min() > 0.02


def test_a_place_that_differs_in_one_cell_gains_when_that_is_covered(archive):
    cells = made.film(0, NODULE[:2])
    cells[10, 18] = -cells[10, 18]  # the last of the nodule's three rows and four columns
    encoder = fake(local=LocalMap(cells, AREA))
    found = explainer(archive, encoder).explain(SMALL, Side.ASKED)
    row, column = np.unravel_index(found.costs.argmin(), found.costs.shape)
    assert (row + 1, column + 1) == found.costs.shape
    assert found.costs.min() < 0 < found.costs.max()


def test_a_hit_without_local_features_is_explained_by_the_region_around_the_roi(archive):
    pair = replace(SMALL, hit_uid="1.2.2", is_place=False)
    assert explainer(archive).explain(pair, Side.ASKED).box == Box(*BOXES[UPPER])
    assert explainer(archive, local=False).explain(pair, Side.ASKED).box == Box(*NODULE)


def test_a_drawn_region_is_compared_by_its_own_crop(archive):
    encoder = fake()
    drawn = Box(210.0, 190.0, 390.0, 390.0)
    explainer(archive, encoder).explain(replace(LARGE, box=drawn), Side.FOUND)
    assert encoder.asked[0].boxes == (drawn,)
    assert {request.box for request in encoder.covered} == {HEART_BOX}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"image_uid": "1.2.99"}, ImageNotStored, "image not stored"),
        ({"hit_uid": "1.2.99"}, ImageNotStored, "image not stored"),
        ({"anatomy": VOCABULARY.named("carina").index}, ImageNotStored, "no such region"),
        ({"frame": 2}, IdentifierError, "frame"),
        ({"box": Box(600, 600, 700, 700)}, IdentifierError, "outside"),
        ({"hit_uid": "1.2.2", "anatomy": UPPER.index, "is_place": True}, IdentifierError, "no local features"),
    ],
)
def test_what_cannot_be_explained_is_said(archive, change, error, words):
    encoder = fake()
    with pytest.raises(error, match=words):
        explainer(archive, encoder).explain(replace(LARGE, **change), Side.ASKED)
    assert not encoder.covered


def test_switched_off_nothing_is_explained(archive):
    off = explainer(archive, why_cells=0)
    assert not off.is_on
    with pytest.raises(NotReady, match="switched off"):
        off.explain(LARGE, Side.ASKED)


def test_a_model_that_is_too_slow_is_given_up(archive):
    encoder, clock = fake(), iter(range(0, 1000, 50))
    slow = Explainer(archive, encoder, QuerySettings(), clock=lambda: next(clock), pause=lambda _: None)
    with pytest.raises(ModelFailure, match=r"query\.why_cells"):
        slow.explain(LARGE, Side.ASKED)
    assert len(encoder.covered) == 2  # 60 s were up


class Failing(FakeEncoder):
    """A film that cannot be read, because it is deleted meanwhile or because it is damaged."""

    def __init__(self, store, uid):
        super().__init__(DIM, len(VOCABULARY))
        self._store, self._uid = store, uid

    def occlude(self, request):
        if self._uid:
            list(self._store.deletion.delete([Equals("sop_instance_uid", self._uid)]))
        raise DecodeError("cannot be read")


@pytest.mark.parametrize(
    ("deleted", "error"), [("", DecodeError), ("1.2.0", ImageNotStored), ("1.2.1", ImageNotStored)]
)
def test_a_film_that_cannot_be_read_is_damaged_or_deleted(archive, deleted, error):
    with pytest.raises(error):
        explainer(archive, Failing(archive, deleted)).explain(LARGE, Side.ASKED)
