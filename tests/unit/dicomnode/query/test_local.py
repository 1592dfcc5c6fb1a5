"""Small ROIs: which region they lie in, and the place in other films that looks like them; maps made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset
from sqlalchemy import text

from dicomnode import private
from dicomnode.private import PatientScope
from dicomnode.query import answer, local, search
from dicomnode.query.matching import Narrowing
from dicomnode.query.region import RegionQuery
from dicomnode.query.search import Answer, RegionSearch
from dicomnode.sr import reader
from dicomnode.sr.regions import GraphicType, SrRoi
from dicomnode.workers.embedding import FakeEncoder
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.local import LocalMap
from storage.records import (
    Equals,
    LocalFeatures,
    Model,
    NewInstance,
    NewPatient,
    NewRegion,
    NewSeries,
    NewStudy,
    Region,
)
from storage.store import Store

DIM = 8
SIDE, CELL = 64, 8.0  # of a map, and in pixels of a 512 x 512 film
LUNG, UPPER, MID = (VOCABULARY.named(f"right {name}") for name in ("lung", "upper lung zone", "mid lung zone"))
HEART = VOCABULARY.named("cardiac silhouette")
BOXES = {
    LUNG: (80.0, 20.0, 250.0, 430.0),
    UPPER: (80.0, 20.0, 250.0, 160.0),
    MID: (80.0, 160.0, 250.0, 300.0),
    HEART: (200.0, 200.0, 400.0, 380.0),
}
NODULE = (120.0, 64.0, 152.0, 88.0)  # 4 x 3 cells, in the upper zone


def unit(*values):
    vector = np.zeros(DIM)
    vector[: len(values)] = values
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def noise(seed):
    raw = np.random.default_rng(seed).standard_normal((SIDE, SIDE, DIM))
    return np.rint(raw / np.linalg.norm(raw, axis=-1, keepdims=True) * 127).astype(np.int8)


PATTERN = noise(99)[:3, :4]  # what the nodule looks like


def film(number, at=None, share=1.0):
    """A map of noise with the pattern at (x, y) in pixels; `share`: how much of it the noise leaves."""
    cells = noise(number)
    if at is not None:
        x, y = int(at[0] / CELL), int(at[1] / CELL)
        cells[y : y + 3, x : x + 4] = np.rint(share * PATTERN + (1 - share) * cells[y : y + 3, x : x + 4])
    return cells


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path) as opened:
        start(opened)
        yield opened


def start(store):
    limits = {str(UPPER.index): 0.5}
    store.generations.ensure_live(Model("m1", "m", DIM, ("anatomy",), VOCABULARY.names, limits))


def add(store, number, cells=None, angle=0.0, sex="F", side=512):
    """One film of its own patient, whose regions point `angle` radians away from the asking film's."""
    uid = f"1.2.{number}"
    new = NewInstance(
        patient=NewPatient(f"P{number}", patient_sex=sex),
        study=NewStudy(f"1.3.{number}"),
        series=NewSeries(f"1.4.{number}", modality="DX"),
        sop_instance_uid=uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        rows=side,
        columns=side,
    )
    with store.files.scratch() as scratch:
        scratch.write(uid.encode())
        store.catalog.add(new, store.files.keep(scratch, uid))
    (job,) = store.jobs.claim("test", 60, 1)
    vectors = {"anatomy": unit(np.cos(angle), np.sin(angle))}
    features = None if cells is None else LocalFeatures(cells, (0.0, 0.0, 512.0, 512.0))
    store.jobs.finish(job, [NewRegion(a.index, box, 0.9, vectors) for a, box in BOXES.items()], features)
    return uid


@pytest.fixture
def archive(store):
    """Film 0 asks. The less of the pattern a film has, the more its zone is like the asking film's; film 5 has none."""
    add(store, 0, film(0, NODULE[:2]))
    for number, (at, share) in enumerate([((200, 40), 1.0), ((96, 112), 0.7), ((160, 24), 0.5), ((88, 120), 0.3)], 1):
        add(store, number, film(number, at, share), angle=0.5 - 0.1 * number, sex="M" if number % 2 else "F")
    add(store, 5, film(5))
    return store


def question(box=NODULE, image="1.2.0", sites=(), **changes):
    roi = SrRoi(image_uid=image, graphic_type=GraphicType.POLYLINE, points=(), box=Box(*box), sites=sites)
    asked = RegionQuery((roi,), (), PatientScope.OTHER, 10, -1.0, "anatomy", Narrowing((), None))
    return replace(asked, **changes)


class NoEncoder:
    """Fails where nothing has to be encoded."""

    def embed(self, request):
        raise AssertionError(request)


def ask(store, asked, encoder=None, **settings):
    return RegionSearch(store, encoder or NoEncoder(), **settings).ask(asked)


def found(answer):
    return [hit.details.instance.patient_id for hit in answer.hits]


# --- which region it lies in ------------------------------------------------------------------------------------------


def regions(*anatomies):
    return [Region(number, 1, 1, a.index, BOXES[a], 0.9) for number, a in enumerate(anatomies or BOXES)]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (NODULE, (UPPER,)),
        ((120, 150, 150, 171), (MID, UPPER, LUNG)),  # across the border of two zones, more in the lower one
        ((120, 350, 150, 370), (LUNG,)),  # where no zone is
        ((210, 210, 240, 240), (MID, HEART)),  # where two regions of about a size overlap
        ((70, 30, 100, 60), (UPPER,)),  # two thirds of it
        ((55, 30, 85, 60), ()),  # mostly outside of all
        ((80, 20, 250, 150), ()),  # nearly a region itself
        ((100, 30, 200, 110), ()),  # a third of one
    ],
)
def test_a_small_roi_lies_in_the_smallest_regions_around_it(box, expected):
    assert local.anatomies_around(Box(*box), regions()) == tuple(anatomy.index for anatomy in expected)


def test_an_roi_grazing_a_small_region_is_still_small_in_the_larger_ones():
    clavicle = VOCABULARY.named("right clavicle")
    own = [*regions(UPPER, LUNG), Region(9, 1, 1, clavicle.index, (80.0, 64.0, 250.0, 84.0), 0.9)]
    assert local.anatomies_around(Box(120, 60, 150, 88), own) == (UPPER.index,)


def test_its_home_is_the_named_region_when_it_is_small_in_it():
    assert local.home(Box(*NODULE), regions(), LUNG.index).box == BOXES[LUNG]
    assert local.home(Box(*NODULE), regions(), HEART.index) is None
    assert local.home(Box(100, 30, 200, 110), regions(), UPPER.index) is None
    assert local.home(Box(100, 30, 200, 110), regions(), LUNG.index) is not None


# --- where it looks alike --------------------------------------------------------------------------------------------


def test_a_small_roi_finds_the_place_in_the_films_that_have_it(archive):
    answer = ask(archive, question())
    assert found(answer)[:3] == ["P1", "P2", "P3"]
    assert sorted(found(answer)) == ["P1", "P2", "P3", "P4", "P5"]
    first, second = answer.hits[:2]
    assert first.score == pytest.approx(1.0, abs=1e-3)
    assert first.box == pytest.approx(Box(200, 40, 232, 64))
    assert second.box == pytest.approx(Box(96, 112, 128, 136))
    assert [hit.rank for hit in answer.hits] == [1, 2, 3, 4, 5]
    assert [hit.score for hit in answer.hits] == sorted((hit.score for hit in answer.hits), reverse=True)
    assert all(hit.local for hit in answer.hits)
    assert {hit.details.region.anatomy for hit in answer.hits} == {UPPER.index}
    assert answer.warnings == ()


def test_the_place_lies_in_the_region_asked_for(archive):
    """A film with the pattern elsewhere only is matched inside its region all the same."""
    add(archive, 6, film(6, (296, 296)))
    hit = next(hit for hit in ask(archive, question(sites=(UPPER,))).hits if hit.details.instance.patient_id == "P6")
    middle = (hit.box.x1 + hit.box.x2) / 2, (hit.box.y1 + hit.box.y2) / 2
    assert 80 <= middle[0] <= 250
    assert 20 <= middle[1] <= 160
    assert hit.score < 0.9


def test_a_finding_site_is_searched_as_a_whole(archive):
    add(archive, 6, film(6, (160, 360)))
    assert ask(archive, question(sites=(LUNG,))).hits[0].details.region.anatomy == LUNG.index
    assert set(found(ask(archive, question(sites=(LUNG,), matches=2)))) == {"P1", "P6"}


def test_the_same_place_is_one_hit_whatever_the_anatomies(archive):
    answer = ask(archive, question(anatomies=(LUNG, UPPER)))
    assert found(answer).count("P1") == 1
    assert found(answer)[:3] == ["P1", "P2", "P3"]
    assert len(found(ask(archive, question(anatomies=(LUNG, UPPER), matches=5)))) == 5


def test_an_unsure_one_is_searched_in_both_and_says_so(archive):
    answer = ask(archive, question(box=(120.0, 150.0, 150.0, 170.0)))
    assert {hit.details.region.anatomy for hit in answer.hits} >= {UPPER.index, MID.index}
    assert search.ANATOMY_UNSURE in answer.warnings


def test_a_filter_a_scope_and_a_number_of_matches_hold(archive):
    women = Narrowing((Equals("patient_sex", "F"),), None)
    assert sorted(found(ask(archive, question(narrowing=women)))) == ["P2", "P4", "P5"]
    assert found(ask(archive, question(narrowing=women, matches=1))) == ["P2"]
    own = ask(archive, question(scope=PatientScope.SAME))
    assert found(own) == ["P0"]
    assert own.hits[0].box == pytest.approx(Box(*NODULE))
    assert found(ask(archive, question(scope=PatientScope.ANY, matches=2))) == ["P0", "P1"]


def test_the_minimum_is_one_of_the_score_reported(archive):
    answer = ask(archive, question(minimum_score=0.6))
    assert answer.hits
    assert all(hit.score >= 0.6 for hit in answer.hits)
    assert "P5" not in found(answer)  # although its region is the most alike


def test_only_the_nearest_regions_are_matched(archive, monkeypatch):
    monkeypatch.setattr(local, "CANDIDATES", 2)
    assert found(ask(archive, question(matches=2))) == ["P4", "P5"]
    assert found(ask(archive, question(matches=4)))[:2] == ["P2", "P3"]


def test_films_without_a_map_come_last_as_regions(archive):
    add(archive, 6, None, angle=0.02)
    add(archive, 7, None, angle=0.01)
    with archive._database.engine.begin() as connection:
        connection.execute(text("UPDATE local_map SET rows = 63 WHERE instance_id = 2"))  # P1's is damaged
    answer = ask(archive, question())
    assert found(answer)[:2] == ["P2", "P3"]
    assert found(answer)[-3:] == ["P7", "P6", "P1"]
    assert [hit.local for hit in answer.hits] == [True] * 4 + [False] * 3
    assert [hit.box for hit in answer.hits[-3:]] == [Box(*BOXES[UPPER])] * 3
    assert answer.hits[-1].score == pytest.approx(np.cos(0.4), abs=1e-3)


def test_ties_go_by_the_region_then_by_the_image(store):
    cells = film(0, NODULE[:2])
    for number, angle in ((0, 0.0), (3, 0.2), (1, 0.2), (2, 0.1)):
        add(store, number, cells, angle)
    assert found(ask(store, question())) == ["P2", "P1", "P3"]


def test_insertion_order_does_not_matter(tmp_path):
    answers = []
    for name, order in (("a", range(8)), ("b", reversed(range(8)))):
        with Store.open(tmp_path / name) as store:
            start(store)
            for number in order:
                add(store, number, film(number % 3, (96 + 8 * (number % 3), 64)) if number % 4 else None, 0.1)
            add(store, 50, film(50, NODULE[:2]))
            answer = ask(store, question(image="1.2.50"))
            answers.append([(hit.score, hit.box, hit.local, hit.details.instance.patient_id) for hit in answer.hits])
    assert answers[0] == answers[1]
    assert len(answers[0]) == 8


def test_the_box_is_clipped_to_the_image(store):
    add(store, 0, film(0, NODULE[:2]))
    add(store, 1, film(1, (216, 136)), side=240)  # the map reaches beyond the film
    assert ask(store, question()).hits[0].box == pytest.approx(Box(216, 136, 240, 160))


# --- where it is not ranked locally -----------------------------------------------------------------------------------


def test_a_large_roi_is_ranked_by_regions(archive):
    answer = ask(archive, question(box=BOXES[UPPER]))
    assert found(answer) == ["P5", "P4", "P3", "P2", "P1"]
    assert not any(hit.local for hit in answer.hits)
    assert answer.hits[0].box == Box(*BOXES[UPPER])


def test_it_can_be_turned_off(archive):
    encoder = FakeEncoder(DIM, len(VOCABULARY))
    answer = ask(archive, question(), encoder, local=False)
    assert not any(hit.local for hit in answer.hits)
    assert {hit.details.region.anatomy for hit in answer.hits} == {UPPER.index}  # found by where it lies
    assert [request.boxes for request in encoder.asked] == [(NODULE,)]


def test_a_film_indexed_without_a_map_asks_with_a_fresh_one(archive):
    add(archive, 6)
    fresh = LocalMap(film(6, NODULE[:2]), Box(0.0, 0.0, 512.0, 512.0))
    answer = ask(archive, question(image="1.2.6"), FakeEncoder(DIM, len(VOCABULARY), local=fresh))
    assert found(answer)[:3] == ["P0", "P1", "P2"]
    assert answer.hits[0].box == pytest.approx(Box(*NODULE))
    answer = ask(archive, question(image="1.2.6"), FakeEncoder(DIM, len(VOCABULARY)))
    assert not any(hit.local for hit in answer.hits)


def test_another_anatomy_than_where_it_lies_is_asked_with_the_crop(archive):
    encoder = FakeEncoder(DIM, len(VOCABULARY))
    answer = ask(archive, question(anatomies=(HEART, UPPER), matches=20), encoder)
    assert {(hit.details.region.anatomy, hit.local) for hit in answer.hits} == {
        (HEART.index, False),
        (UPPER.index, True),
    }
    assert len(encoder.asked) == 1


def test_unlike_the_archive_is_the_region_around_not_the_crop(archive):
    assert search.UNLIKE_ARCHIVE not in ask(archive, question()).warnings
    add(archive, 9, film(9, NODULE[:2]), angle=np.pi / 2)
    assert search.UNLIKE_ARCHIVE in ask(archive, question(image="1.2.9")).warnings


# --- what the asker reads ---------------------------------------------------------------------------------------------


def responses(store, answered: Answer):
    asked = Dataset()
    asked.QueryRetrieveLevel = "IMAGE"
    asked.SOPInstanceUID = ""
    private.register()
    told = answer.matches_of(answer.reported(answered), asked, store.catalog, "NODE")
    return [private.read_response(each.dataset()) for each in told]


def test_the_answer_says_where_and_that_it_was_ranked_locally(archive):
    add(archive, 6, None)
    first, *_, last = responses(archive, ask(archive, question()))
    roi = reader.rois(first.matched_roi)[0]
    assert roi.box == pytest.approx(Box(200, 40, 232, 64))
    assert roi.sites == (UPPER,)
    assert (first.warning, last.warning) == (search.RANKED_LOCALLY, "")


def test_warnings_fit_their_element(archive):
    answered = replace(ask(archive, question(matches=1)), warnings=search.WARNINGS[1:])
    (only,) = responses(archive, answered)
    assert len(only.warning) <= 64
    assert only.warning.startswith("RANKED LOCALLY; UNLIKE ARCHIVE; ANATOMY UNSURE")
