"""The main job: films in by C-STORE, a region asked by SR ROI in C-FIND, ranked regions out."""

import statistics
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.dimse import client
from dicomnode.query import request
from dicomnode.query.request import Keys, ReadHit
from dicomnode.sr import writer
from encoder.anatomy import VOCABULARY
from tests import nodes
from tests.acceptance.conftest import Archive
from tests.films import ANNOTATED, Film

pytestmark = [pytest.mark.data, pytest.mark.dcmtk, pytest.mark.timeout(1800)]
DX = "1.2.840.10008.5.1.4.1.1.1.1"


def ask(archive: Archive, film: Film, name: str, **keys) -> list[ReadHit]:
    identifier = request.by_box(film.uid, DX, film.boxes()[name], Keys(**keys))
    return [request.read_hit(match) for match in client.find(archive.node.peer, identifier)]


def findscu(dcmtk: Path, archive: Archive, identifier: Dataset, folder: Path) -> list[Path]:
    """DCMTK's findscu with a query file; the response files in order."""
    folder.mkdir(parents=True)
    identifier.file_meta = FileMetaDataset()
    identifier.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    identifier.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.2.2.1"
    identifier.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    identifier.save_as(folder / "query.dcm", enforce_file_format=True)
    command = [dcmtk / "findscu", "-S", "-X", "-od", folder, "-aec", "DICOMNODE", "127.0.0.1", archive.node.port]
    done = subprocess.run([*map(str, command), str(folder / "query.dcm")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sorted(folder.glob("rsp*.dcm"))


def test_every_film_is_indexed(archive):
    status = nodes.answered("status", "--root", archive.node.root)
    assert status["indexed"] == len(archive.films)
    assert (status["queued"], status["failed"]) == (0, 0)
    assert status["instances"] == len(archive.films) + status["not_indexable"]  # SRs and answers of other tests


def test_same_anatomy_answers_come_first_and_never_the_asking_patient(archive):
    """P@5 macro over the five annotated regions of the held-out films; the ROI is a bare box, no Finding Site."""
    precision: dict[str, list[float]] = {name: [] for name in ANNOTATED}
    for film in archive.films:
        if film.record["split"] != "dev_val":
            continue
        for name in film.boxes():
            hits = ask(archive, film, name, matches=5)
            assert len(hits) == 5
            assert film.facts.patient_id not in {hit.patient_id for hit in hits}
            precision[name].append(sum(hit.anatomy == name for hit in hits) / 5)
    macro = statistics.mean(statistics.mean(values) for values in precision.values())
    assert macro >= 0.95, {name: statistics.mean(values) for name, values in precision.items()}


def test_findscu_reads_rank_score_and_matched_roi(archive, dcmtk, tmp_path):
    film = archive.films[5]
    identifier = request.by_box(film.uid, DX, film.boxes()["cardiac silhouette"], Keys(matches=7))
    answers = [dcmread(path, force=True) for path in findscu(dcmtk, archive, identifier, tmp_path / "f")]
    hits = [request.read_hit(answer) for answer in answers]
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6, 7]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for answer, hit in zip(answers, hits, strict=True):
        found = archive.by_uid[hit.sop_instance_uid]
        assert (answer.PatientID, answer.StudyDate) == (found.facts.patient_id, found.facts.study_date)
        assert hit.anatomy == "cardiac silhouette"
        assert found.boxes()["cardiac silhouette"].iou(request.Box(*hit.box)) > 0.5


def test_an_sr_file_asks_through_the_command(archive, tmp_path):
    film = archive.films[10]
    heart = VOCABULARY.named("cardiac silhouette")
    marking = writer.Marking(film.boxes()[heart.name], heart)
    question = writer.query_sr(film.dataset, [marking], at=datetime(2026, 1, 1, tzinfo=UTC))
    question.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    answer = nodes.answered("query", archive.node.address, "--sr", tmp_path / "sr.dcm", "--k", "4")
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3, 4]
    assert {hit["anatomy"] for hit in answer["hits"]} == {heart.name}


def test_a_box_asks_through_the_command(archive):
    film = archive.films[50]
    box = ",".join(str(edge) for edge in film.boxes()["left lung"])
    answer = nodes.answered("query", archive.node.address, "--image", film.uid, "--box", box, "--anatomy", "left lung")
    assert len(answer["hits"]) == 10
    table = nodes.dicomnode("query", archive.node.address, "--image", film.uid, "--box", box).stdout
    assert "left lung" in table
    assert "SOP Instance UID" in table


@pytest.mark.parametrize("name", ["left lung", "cardiac silhouette"])
def test_a_filter_never_shortens_the_answer_while_matches_exist(archive, name):
    film = archive.films[60]
    site = VOCABULARY.named(name)
    others = [each for each in archive.films if each.facts.patient_id != film.facts.patient_id]
    women = ask(archive, film, name, anatomy=site, matches=50, standard={"PatientSex": "F"})
    assert len(women) == 50
    assert {hit.patient_sex for hit in women} == {"F"}
    lo, hi = "20200101", "20200301"
    within = [each for each in others if lo <= each.facts.study_date <= hi]
    dated = ask(archive, film, name, anatomy=site, matches=200, standard={"StudyDate": f"{lo}-{hi}"})
    assert 0 < len(within) < 40
    assert {hit.sop_instance_uid for hit in dated} == {each.uid for each in within}


def test_scopes(archive):
    film = archive.films[0]
    site = VOCABULARY.named("left lung")
    same = ask(archive, film, "left lung", anatomy=site, scope="SAME", matches=50)
    assert {hit.sop_instance_uid for hit in same} == {archive.films[0].uid, archive.films[1].uid}
    everyone = ask(archive, film, "left lung", anatomy=site, scope="ANY", matches=3)
    assert everyone[0].sop_instance_uid == film.uid


def test_the_same_question_gets_the_same_bytes_also_after_reindexing_the_same_model(archive, dcmtk, tmp_path):
    film = archive.films[70]

    def bytes_of(name: str) -> list[bytes]:
        identifier = request.by_box(film.uid, DX, film.boxes()["right lung"], Keys(matches=20))
        return [path.read_bytes() for path in findscu(dcmtk, archive, identifier, tmp_path / name)]

    first = bytes_of("first")
    assert len(first) == 20
    assert bytes_of("second") == first
    before = nodes.answered("status", "--root", archive.node.root)
    result = nodes.answered("reindex", "--root", archive.node.root)
    after = nodes.answered("status", "--root", archive.node.root)
    assert result["indexed"] == len(archive.films)
    assert after["generation"] > before["generation"]
    assert after["model"] == before["model"]
    assert bytes_of("third") == first
