"""Result objects by the book: dciodvfy and PixelMed's validator find no error in them."""

import pytest

from encoder.anatomy import VOCABULARY
from tests.integration import asking
from tests.integration.interop import programs

# PixelMed's templates are XPath expressions beyond what Java allows by itself.
UNLIMITED = [f"-Djdk.xml.xpath{limit}Limit=0" for limit in ("ExprGrp", "ExprOp", "TotalOp")]
PIXELMED = "/usr/share/java/pixelmed.jar"
VALIDATOR = "com.pixelmed.validate.DicomSRValidator"


@pytest.fixture(scope="module")
def results(desk):
    """Answered questions: hits of others, of the same patient in two studies, and none."""
    film = desk.films[0]
    return {
        "others": desk.ended(asking.question(film)),
        "own": desk.ended(asking.question(film), scope="ANY"),
        "none": desk.ended(asking.question(film, anatomy=VOCABULARY.named("trachea"))),
    }


@pytest.fixture(scope="module")
def refused(desk):
    """A question that gets no answer, and so a notice."""
    return desk.ended(asking.question(desk.films[0], asking.Box(300, 300, 400, 400)))


def test_validators_find_no_error_in_a_notice(desk, refused, judge):
    path = desk.file(refused.report_uid)
    done = programs.run(judge("dciodvfy"), path, check=False)
    assert ([line for line in done.stdout.splitlines() if line.startswith("Error")], done.returncode) == ([], 0)
    judge("DicomSRValidator")
    said = programs.run(judge("java"), *UNLIMITED, "-cp", PIXELMED, VALIDATOR, path, check=False, timeout=240.0).stdout
    assert [line for line in said.splitlines() if line.startswith("Error")] == []
    assert "Found BasicTextSR IOD" in said
    assert "IOD validation complete" in said


@pytest.mark.parametrize("kind", ["others", "own", "none"])
@pytest.mark.parametrize("which", ["report_uid", "panel_uid"])
def test_dciodvfy_finds_no_error(desk, results, judge, kind, which):
    done = programs.run(judge("dciodvfy"), desk.file(getattr(results[kind], which)), check=False)
    errors = [line for line in done.stdout.splitlines() if line.startswith("Error")]
    assert (errors, done.returncode) == ([], 0)


def test_pixelmed_finds_no_error(desk, results, judge):
    """Of the richest report only: it takes a quarter of a minute over one."""
    judge("DicomSRValidator")  # the package of that program brings the archive of classes
    command = [judge("java"), *UNLIMITED, "-cp", PIXELMED, VALIDATOR]
    done = programs.run(*command, desk.file(results["own"].report_uid), check=False, timeout=240.0)
    said = done.stdout.splitlines()
    assert [line for line in said if line.startswith("Error")] == []
    assert "Root Template Validation Complete" in said
    assert "IOD validation complete" in said
    assert "Found Root Template TID_1500 (MeasurementReport)" in said
