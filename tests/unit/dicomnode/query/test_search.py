"""Region search on a real store, with vectors made by hand and a fake encoder."""

from dataclasses import replace

import numpy as np
import pytest

from dicomnode.errors import IdentifierError, ImageNotStored, NotReady, RoiError
from dicomnode.private import PatientScope
from dicomnode.query import search
from dicomnode.query.matching import Narrowing
from dicomnode.query.region import RegionQuery
from dicomnode.query.search import RegionSearch
from dicomnode.sr.regions import GraphicType, SrRoi
from dicomnode.workers.embedding import FakeEncoder
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from storage.records import Equals, Model, NewInstance, NewPatient, NewRegion, NewSeries, NewStudy
from storage.store import Store

DIM = 8
HEART, LUNG = VOCABULARY.named("cardiac silhouette"), VOCABULARY.named("right lung")
HEART_BOX, LUNG_BOX = (200.0, 200.0, 400.0, 380.0), (80.0, 20.0, 250.0, 430.0)


def unit(*values):
    vector = np.zeros(DIM)
    vector[: len(values)] = values
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path) as opened:
        model = Model("m1", "models/m1", DIM, ("anatomy",), VOCABULARY.names, {str(HEART.index): 0.2})
        opened.generations.ensure_live(model)
        yield opened


def add(store, number, patient, angle, sex="F"):
    """One film whose heart points `angle` radians away from the asked direction, and whose lung points elsewhere."""
    uid = f"1.2.{number}"
    new = NewInstance(
        patient=NewPatient(patient, patient_sex=sex),
        study=NewStudy(f"1.3.{number}"),
        series=NewSeries(f"1.4.{number}", modality="DX"),
        sop_instance_uid=uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        rows=512,
        columns=512,
    )
    with store.files.scratch() as scratch:
        scratch.write(uid.encode())
        store.catalog.add(new, store.files.keep(scratch, uid))
    (job,) = store.jobs.claim("test", 60, 1)
    store.jobs.finish(
        job,
        [
            NewRegion(HEART.index, HEART_BOX, 0.9, {"anatomy": unit(np.cos(angle), np.sin(angle))}),
            NewRegion(LUNG.index, LUNG_BOX, 0.9, {"anatomy": unit(0, 0, 1, angle)}),
        ],
    )
    return uid


@pytest.fixture
def archive(store):
    """Patient P0 asks; P1..P6 are ever less like it; P1 and P2 are men."""
    for number in range(7):
        add(store, number, f"P{number}", 0.1 * number, "M" if number in {1, 2} else "F")
    return store


def question(box=HEART_BOX, image="1.2.0", sites=(), **changes):
    roi = SrRoi(image_uid=image, graphic_type=GraphicType.POLYLINE, points=(), box=Box(*box), sites=sites)
    asked = RegionQuery((roi,), (), PatientScope.OTHER, 10, -1.0, "anatomy", Narrowing((), None))
    return replace(asked, **changes)


def ask(store, asked, encoder=None):
    return RegionSearch(store, encoder or FakeEncoder(DIM, len(VOCABULARY))).ask(asked)


def found(answer):
    return [hit.details.instance.patient_id for hit in answer.hits]


def test_ranks_other_patients_best_first(archive):
    answer = ask(archive, question())
    assert found(answer) == ["P1", "P2", "P3", "P4", "P5", "P6"]
    assert [hit.rank for hit in answer.hits] == [1, 2, 3, 4, 5, 6]
    assert answer.hits[0].score == pytest.approx(np.cos(0.1), abs=1e-3)
    assert {hit.details.region.anatomy for hit in answer.hits} == {HEART.index}
    assert answer.warnings == ()


def test_a_stored_region_is_not_encoded_again(archive):
    encoder = FakeEncoder(DIM, len(VOCABULARY))
    ask(archive, question(), encoder)
    assert encoder.asked == []
    ask(archive, question(box=(210.0, 200.0, 390.0, 300.0)), encoder)
    assert len(encoder.asked) == 1


@pytest.mark.parametrize(
    ("scope", "patients"),
    [
        (PatientScope.ANY, ["P0", "P1", "P2"]),
        (PatientScope.OTHER, ["P1", "P2", "P3"]),
        (PatientScope.SAME, ["P0"]),
    ],
)
def test_scope(archive, scope, patients):
    assert found(ask(archive, question(scope=scope, matches=3))) == patients


def test_a_filter_narrows_before_ranking(archive):
    women = Narrowing((Equals("patient_sex", "F"),), None)
    assert found(ask(archive, question(narrowing=women, matches=3))) == ["P3", "P4", "P5"]


def test_filter_and_scope_same_combine(archive):
    men = Narrowing((Equals("patient_sex", "M"),), None)
    assert found(ask(archive, question(narrowing=men, scope=PatientScope.SAME))) == []


def test_minimum_score_cuts(archive):
    assert found(ask(archive, question(minimum_score=float(np.cos(0.25))))) == ["P1", "P2"]


def test_the_filter_goes_before_the_finding_site_before_the_classifier(archive):
    asked = question(box=(210.0, 200.0, 390.0, 300.0), sites=(HEART,))
    assert {hit.details.region.anatomy for hit in ask(archive, asked).hits} == {HEART.index}
    asked = replace(asked, anatomies=(LUNG,))
    assert {hit.details.region.anatomy for hit in ask(archive, asked).hits} == {LUNG.index}


def test_an_unsure_roi_searches_several_anatomies_and_says_so(archive):
    half_and_half = (80.0, 20.0, 400.0, 430.0)
    encoder = FakeEncoder(DIM, len(VOCABULARY))
    answer = ask(archive, question(box=half_and_half, matches=20), encoder)
    assert {hit.details.region.anatomy for hit in answer.hits} == {HEART.index, LUNG.index}
    assert search.ANATOMY_UNSURE in answer.warnings


def test_an_encoder_that_names_no_anatomy_leaves_it_to_the_overlap_and_else_to_all(archive):
    encoder = FakeEncoder(DIM, len(VOCABULARY))  # every anatomy equally likely
    inside = ask(archive, question(box=(300.0, 300.0, 330.0, 330.0), matches=20), encoder)
    assert {hit.details.region.anatomy for hit in inside.hits} == {HEART.index}
    assert search.ANATOMY_UNSURE not in inside.warnings
    outside = ask(archive, question(box=(450.0, 10.0, 500.0, 60.0), matches=20), encoder)
    assert {hit.details.region.anatomy for hit in outside.hits} == {HEART.index, LUNG.index}
    assert search.ANATOMY_UNSURE in outside.warnings


def test_unlike_the_archive_is_said_and_nothing_is_hidden(archive):
    add(archive, 99, "P99", np.pi / 2)
    answer = ask(archive, question(image="1.2.99"))
    assert search.UNLIKE_ARCHIVE in answer.warnings
    assert len(answer.hits) == 7


def test_an_unknown_site_is_said(archive):
    roi = replace(question().rois[0], unknown_sites=("123 SCT",))
    assert search.SITE_IGNORED in ask(archive, replace(question(), rois=(roi,))).warnings


def test_a_region_that_is_not_drawn_on_an_image_is_said_to_be_ignored(archive):
    assert search.ROI_IGNORED in ask(archive, question(ignored=1)).warnings


def test_several_rois_are_ranked_together_each_named(archive):
    first = replace(question().rois[0], tracking_identifier="heart", sites=(HEART,))
    second = replace(first, tracking_identifier="lung", sites=(LUNG,), box=Box(*LUNG_BOX))
    answer = ask(archive, replace(question(), rois=(first, second), matches=20))
    scores = [hit.score for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)
    assert {hit.roi.tracking_identifier for hit in answer.hits} == {"heart", "lung"}
    assert [hit.rank for hit in answer.hits] == list(range(1, 13))


def test_insertion_order_does_not_matter(tmp_path):
    answers = []
    for name, order in (("a", range(7)), ("b", reversed(range(7)))):
        with Store.open(tmp_path / name) as store:
            store.generations.ensure_live(Model("m1", "m", DIM, ("anatomy",), VOCABULARY.names))
            for number in order:
                add(store, number, f"P{number}", 0.3)  # all alike: ties go by SOP Instance UID
            answer = ask(store, question())
            answers.append([(hit.rank, hit.score, hit.details.instance.sop_instance_uid) for hit in answer.hits])
    assert answers[0] == answers[1]
    assert [uid for _, _, uid in answers[0]] == [f"1.2.{number}" for number in range(1, 7)]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"image": "1.2.77"}, ImageNotStored, "send it first"),
        ({"box": (600.0, 600.0, 700.0, 700.0)}, RoiError, "outside the image"),
        ({"box": (10.0, 10.0, 12.0, 12.0)}, RoiError, "under 4 pixels"),
        ({"projection": "finding"}, IdentifierError, "no such Profile"),
    ],
)
def test_what_cannot_be_answered_is_said(archive, changes, error, words):
    with pytest.raises(error, match=words):
        ask(archive, question(**changes))


def test_no_index_yet(store):
    with pytest.raises(NotReady, match="no index yet"):
        ask(store, question())
