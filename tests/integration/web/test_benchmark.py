"""The benchmark of the viewer path asks what it says it asks, on a small scale and without models."""

from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from pydicom import dcmread

from benchmarks import documents, objects
from benchmarks.__main__ import ALL
from benchmarks.tables import Table
from benchmarks.web import asker, reports, saving, search, series
from benchmarks.web.archives import WebArchive, dicomnode
from benchmarks.web.rows import OURS, Row
from dicomnode.sr import reader

STUDIES, SLICES = 12, 3


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Few small studies and a series in a node that the benchmark started and filled."""
    folder = tmp_path_factory.mktemp("benchmark")
    with dicomnode(folder / "node") as running:
        asker.stow(running.http_port, objects.studies(folder / "studies", STUDIES))
        asker.stow(running.http_port, objects.slices(folder / "slices", SLICES))
        yield running


def archives(archive: WebArchive):
    return MappingProxyType({OURS: archive})


def test_every_search_is_timed(archive):
    rows = list(search.rows(STUDIES, archives(archive), {"Orthanc": "not here"}, 1))
    assert len(rows) == len(search.searches(STUDIES))
    for row in rows:
        name, ours, other, _ = row.cells()
        assert "12 studies" in name
        assert ours
        assert other == "not here"


def test_the_whole_series_comes(archive):
    for row in series.rows(SLICES, archives(archive), {}, 1):
        assert row.cells()[1]
        assert all(seconds > 0 for seconds in row.taken[OURS])


def test_a_series_that_lacks_a_slice_is_no_measure(archive):
    with pytest.raises(asker.Refused, match="bytes came"):
        list(series.rows(SLICES + 1, archives(archive), {}, 1))


def test_a_page_is_loaded_with_what_it_shows(archive):
    assert asker.open_page(archive.http_port, f"/study/{objects.ct(1).study_uid}") == SLICES + len(
        ("css", "icon", "js")
    )


def test_the_report_that_is_saved_is_a_question_about_the_box(films):
    image = films.plain
    (roi,) = reader.rois(dcmread(BytesIO(reports.report(image, saving.heart(image)))))
    assert roi.image_uid == image.SOPInstanceUID
    assert np.allclose(roi.box, saving.heart(image), atol=0.01)


@pytest.mark.parametrize(("seconds", "verdict"), [([0.5, 0.7, 1.0], "met"), ([0.5, 1.5, 9.0], "missed")])
def test_a_goal_is_met_by_the_median_and_by_nine_in_ten(seconds, verdict):
    row = Row("Save", {OURS: seconds, "Orthanc": [3.0]}, goal_s=2.0, slowest_goal_s=3.0)
    assert row.cells()[3].endswith(verdict)
    assert row.cells()[2].endswith(f"{3.0 / seconds[1]:.1f} x")


def test_a_document_is_filled_between_its_marks_only():
    document = "Before.\n<!-- begin web -->\nold\n<!-- end web -->\nAfter.\n"
    table = Table(("a", "b"), (("1", "2"),), ("A note.",))
    filled = documents.filled(document, {"web": table})
    assert filled == f"Before.\n<!-- begin web -->\n{table.markdown()}<!-- end web -->\nAfter.\n"
    with pytest.raises(documents.NoSection, match="dimse"):
        documents.filled(document, {"dimse": table})


def test_every_benchmark_has_its_place_in_the_document():
    page = Path(documents.__file__).parent.parent / "docs" / "performance.md"
    table = Table(("a", "b"), (("1", "2"),))
    assert documents.filled(page.read_text(encoding="utf-8"), dict.fromkeys(ALL, table)).count("| 1 | 2 |") == len(ALL)
