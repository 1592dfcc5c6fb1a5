"""Door B on the open films: SRs stored by DCMTK, answered by the shipped models, results stored beside the films."""

import datetime
import subprocess

import pytest
from pydicom import dcmread

from dicomnode.sr import reader, writer
from encoder.anatomy import VOCABULARY
from tests.acceptance.conftest import Archive
from tests.integration import asking

pytestmark = [pytest.mark.data, pytest.mark.dcmtk, pytest.mark.timeout(1800)]
NAMES = ("cardiac silhouette", "left lung", "right clavicle")


def ask(archive: Archive, dcmtk, folder, films) -> list[str]:
    """A bare box of each film's heart, lung or clavicle, without a Finding Site; the UIDs of the SRs."""
    paths, uids = [], []
    for number, film in enumerate(films):
        marking = writer.Marking(film.boxes()[NAMES[number % len(NAMES)]])
        document = writer.query_sr(film.dataset, [marking], at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
        paths.append(str(asking.saved(document, folder)))
        uids.append(str(document.SOPInstanceUID))
    command = [dcmtk / "storescu", "-R", "-aec", "REGIONMIR", "127.0.0.1", archive.node.port]
    done = subprocess.run([*map(str, command), *paths], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return uids


def test_stored_srs_are_answered_with_the_anatomy_that_was_marked(archive, dcmtk, tmp_path):
    films = [film for film in archive.films if {*NAMES} <= film.boxes().keys()][:6]
    right = []
    for number, (film, uid) in enumerate(zip(films, ask(archive, dcmtk, tmp_path, films), strict=True)):
        done = asking.ended(archive.node.root, uid)
        assert (done.state, done.reason) == ("stored", "")
        report = dcmread(asking.stored_file(archive.node.root, done.report_uid))
        rois = reader.rois(report)
        assert {roi.image_uid for roi in rois} == {film.uid}
        right += [roi.sites == (VOCABULARY.named(NAMES[number % len(NAMES)]),) for roi in rois]
        others = [each for each in archive.films if each.facts.patient_id != film.facts.patient_id]
        for result in (done.report_uid, done.panel_uid):
            content = asking.stored_file(archive.node.root, result).read_bytes()
            for each in others:
                assert each.uid.encode() not in content
                assert f"{each.facts.patient_id}".encode() not in content
    assert sum(right) / len(right) >= 0.9
