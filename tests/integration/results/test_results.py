"""Result objects as a viewer gets them: whose hits are where, what is in them, what a crash repeats."""

import numpy as np
import pytest
from pydicom import dcmread

from dicomnode import models
from dicomnode.errors import ModelFailure
from dicomnode.questions.keeper import FAILED_RETRY_S
from dicomnode.sr import reader
from dicomnode.sr.result import is_result
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from storage.store import Store
from tests.integration import archives, asking
from tests.integration.asking import HEART, HEART_BOX
from tests.integration.results.conftest import Desk
from tests.raw import wait_until


def report_of(desk, question):
    return dcmread(desk.file(question.report_uid))


def test_a_hit_of_another_patient_is_the_askers_own_roi(desk):
    done = desk.ended(asking.question(desk.films[0]))
    rois = reader.rois(report_of(desk, done))
    assert len(rois) == 10
    assert {(roi.image_uid, roi.box) for roi in rois} == {(desk.films[0].SOPInstanceUID, HEART_BOX)}
    assert len({roi.tracking_uid for roi in rois}) == 10
    content = desk.file(done.report_uid).read_bytes() + desk.file(done.panel_uid).read_bytes()
    assert [text for text in asking.strangers(desk.films[2:]) if text in content] == []


def test_a_hit_of_the_same_patient_is_drawn_where_it_is(desk):
    done = desk.ended(asking.question(desk.films[0]), scope="SAME")
    rois = reader.rois(report_of(desk, done))
    assert {roi.image_uid for roi in rois} == {film.SOPInstanceUID for film in desk.films[:2]}
    both = desk.ended(asking.question(desk.films[0]), scope="ANY")
    drawn = [roi.image_uid for roi in reader.rois(report_of(desk, both))]
    assert drawn.count(desk.films[0].SOPInstanceUID) > 1
    content = desk.file(both.report_uid).read_bytes()
    assert [text for text in asking.strangers(desk.films[2:]) if text in content] == []


def test_what_the_report_says(desk):
    report = report_of(desk, desk.ended(asking.question(desk.films[0])))
    assert is_result(report)
    assert (report.Modality, report.PatientID, report.CompletionFlag) == ("SR", "ASKER-1", "COMPLETE")
    assert report.StudyInstanceUID == desk.films[0].StudyInstanceUID
    assert report.SeriesInstanceUID != desk.films[0].SeriesInstanceUID
    texts = {str(item.get("TextValue")) for item in items(report)}
    assert {"dicomnode region search", f"index generation {desk.store.generations.live().model.id}"} <= texts
    scores = [float(item.MeasuredValueSequence[0].NumericValue) for item in items(report) if similarity(item)]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 10
    assert [roi.sites for roi in reader.rois(report)] == [(HEART,)] * 10
    points = [list(item.GraphicData) for item in items(report) if item.get("ValueType") == "SCOORD"]
    assert {len(each) for each in points} == {10}
    assert all(each[:2] == each[-2:] for each in points)


def items(report):
    def below(item):
        yield item
        for child in item.get("ContentSequence", []):
            yield from below(child)

    return list(below(report))


def similarity(item) -> bool:
    return item.get("ValueType") == "NUM" and item.ConceptNameCodeSequence[0].CodeValue == "SIMILARITY"


def test_the_panel_is_a_picture_that_is_no_film(desk):
    done = desk.ended(asking.question(desk.films[0]))
    panel = dcmread(desk.file(done.panel_uid))
    pixels = panel.pixel_array
    assert pixels.shape == (panel.Rows, panel.Columns, 3)
    colours = {tuple(pixel) for pixel in pixels.reshape(-1, 3)[::7]}
    assert {(0xFF, 0xD2, 0x3F), (0x3F, 0xD2, 0xFF)} <= colours  # the asked box, and those of hits
    assert (panel.PatientID, panel.Modality, "BodyPartExamined" in panel) == ("ASKER-1", "OT", False)
    asking.index(desk.store)
    row = desk.store.catalog.instance(done.panel_uid)
    assert desk.store.regions.of_instance(desk.store.generations.live().id, row.id) == []


def test_a_film_with_text_burnt_in_is_not_shown(desk):
    from dicomnode.pixels.eligibility import DecodeLimits
    from dicomnode.workers.drafts import Source
    from dicomnode.workers.scribe import Scribe
    from tests.integration import archives

    burnt = asking.film(77)
    burnt.BurnedInAnnotation = "YES"
    uid = archives.put(desk.store, burnt, desk.folder)
    scribe = Scribe(DecodeLimits())
    assert scribe._pixels(Source(desk.file(uid), HEART_BOX)) is None
    assert scribe._pixels(Source(desk.file(desk.films[1].SOPInstanceUID), HEART_BOX)).dtype == np.float32


def test_killed_after_the_answer_was_kept_only_the_objects_are_made_again(desk):
    keeper = desk.keeper()
    uid = desk.asked(asking.question(desk.films[0]), keeper)
    assert keeper.step()
    answered = desk.store.questions.of_sr(uid)
    assert (answered.state, desk.store.catalog.instance(answered.report_uid)) == ("answered", None)
    first = keeper._results.report(answered)  # and killed here
    size = desk.file(first).stat().st_mtime_ns
    assert desk.keeper().step()
    done = desk.store.questions.of_sr(uid)
    assert (done.state, done.answer, done.report_uid) == ("stored", answered.answer, first)
    assert desk.file(first).stat().st_mtime_ns == size
    assert not desk.keeper().step()


def test_who_gets_no_answer_is_told_once_however_often_it_fails(desk):
    document = asking.question(desk.films[0], Box(300, 300, 400, 400))
    keeper = desk.keeper()
    uid = desk.asked(document, keeper)
    told = []
    for _ in range(2):
        while keeper.step():
            pass
        told.append(desk.store.questions.of_sr(uid).report_uid)
        assert keeper.ask(uid, "VIEWER")
    assert told[0] == told[1]
    notice = dcmread(desk.file(told[0]))
    assert is_result(notice)
    assert "No answer: region lies outside the image" in {str(item.get("TextValue")) for item in items(notice)}
    while keeper.step():
        pass


def test_notices_can_be_switched_off(desk):
    keeper = desk.keeper(notices=False)
    uid = desk.asked(asking.question(desk.films[0], Box(300, 300, 400, 400)), keeper)
    while keeper.step():
        pass
    failed = desk.store.questions.of_sr(uid)
    assert (failed.state, failed.reason, failed.report_uid) == ("failed", "region lies outside the image", None)


def test_killed_before_the_notice_was_stored_it_is_made_by_the_next(desk):
    keeper = desk.keeper()
    uid = desk.asked(asking.question(desk.films[0], Box(300, 300, 400, 400)), keeper)
    assert keeper.step()
    failed = desk.store.questions.of_sr(uid)
    assert (failed.state, desk.store.catalog.instance(failed.report_uid)) == ("failed", None)
    assert desk.keeper().step()
    assert desk.file(failed.report_uid).is_file()
    assert not desk.keeper().step()


def test_who_is_answered_and_gets_no_result_is_told(desk, monkeypatch):
    """Another try may mend it, up to a last one; what was found stays kept."""
    keeper = desk.keeper()
    uid = desk.asked(asking.question(desk.films[0]), keeper)
    assert keeper.step()

    def broken(request):
        raise ModelFailure("result objects cannot be made: OSError")

    monkeypatch.setattr(desk.scribe, "write", broken)
    for _ in range(len(FAILED_RETRY_S) + 1):
        assert keeper.step()
        desk.store.questions.hasten("nobody")
    done = desk.store.questions.of_sr(uid)
    assert (done.state, done.reason) == ("failed", "result objects cannot be made: OSError")
    assert len(done.answer["hits"]) == 10
    assert keeper.step()
    assert "No answer: result objects cannot be made" in desk.file(done.report_uid).read_bytes().decode("latin-1")


@pytest.mark.postgresql
def test_two_nodes_on_one_postgresql_answer_each_question_once(postgresql, scribe, tmp_path):
    """Each with a store and a keeper thread of its own, on one folder of files."""
    films = [asking.film(number) for number in range(6)]
    with Store.open(tmp_path / "root", postgresql) as store:
        models.ensure_live(store, "")
        for film in films:
            archives.put(store, film, tmp_path)
        asking.index(store)
        nodes = [Desk(Store.open(tmp_path / "root", postgresql), scribe, tmp_path, films) for _ in range(2)]
        uids = [nodes[0].asked(asking.question(film), nodes[0].keeper()) for film in films * 2]
        keepers = [desk.keeper(holder=name) for desk, name in zip(nodes, ("a", "b"), strict=True)]
        for keeper in keepers:
            keeper.start()
        try:
            assert wait_until(lambda: store.questions.counts() == {"stored": len(uids)}, 60), store.questions.counts()
        finally:
            for keeper in keepers:
                keeper.stop()
                keeper.join()
        made = [{one.report_uid, one.panel_uid} for one in store.questions.all()]
        owed = [uid for desk in nodes for uid in desk.owed]
        assert sorted(owed) == sorted(uid for both in made for uid in both)  # nothing twice
        assert all(desk.owed for desk in nodes), "one of them had nothing to do"
        for desk in nodes:
            desk.store.close()


def test_the_same_answer_makes_the_same_bytes(desk, tmp_path):
    import datetime

    from dicomnode.attributes.header import trimmed
    from dicomnode.pixels.eligibility import DecodeLimits
    from dicomnode.sr.result import Facts, Place, ResultHit
    from dicomnode.workers.drafts import ReportRequest
    from dicomnode.workers.scribe import Scribe

    film = desk.films[0]
    place = Place(film.SOPInstanceUID, None, HEART_BOX)
    facts = Facts("2.25.1", "2.25.2", "m", datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC))
    hit = ResultHit(1, 0.5, HEART.index, place, "2.25.3")
    for name in ("a", "b"):
        request = ReportRequest({film.SOPInstanceUID: trimmed(film)}, place, (hit,), facts, tmp_path / name)
        Scribe(DecodeLimits()).write(request)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert dcmread(tmp_path / "a").ContentDate == "20260102"


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", None])
def test_the_name_is_the_askers_in_its_character_set(desk, charset, tmp_path):
    film = asking.film(200 + len(charset or ""), "CHARSET")
    film.PatientName = "Müller^Jörg" if charset else "Plain^Name"
    if charset:
        film.SpecificCharacterSet = charset
    else:
        del film.SpecificCharacterSet
    from tests.integration import archives

    archives.put(desk.store, film, desk.folder)
    asking.index(desk.store)
    done = desk.ended(asking.question(film))
    for uid in (done.report_uid, done.panel_uid):
        assert str(dcmread(desk.file(uid)).PatientName) == str(film.PatientName)


def test_of_several_rois_each_hit_lies_on_its_own(desk):
    other = Box(30, 20, 110, 220)
    document = asking.question(desk.films[0], HEART_BOX, other, anatomy=None)
    rois = reader.rois(report_of(desk, desk.ended(document)))
    boxes = {(roi.box, roi.sites) for roi in rois}
    assert boxes <= {(HEART_BOX, (HEART,)), (other, (VOCABULARY.named("right lung"),))}
    assert len(boxes) == 2
