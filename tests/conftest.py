"""What every tier shares: where the development data is, which peer programs there are, and what a skip means.

At home a missing peer or data folder skips with its reason. With CI=true, or DICOMNODE_REQUIRE_DATA=1 for the data,
the same test fails instead.
"""

import os
import shutil
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


def _missing(reason: str, *, fatal: bool) -> None:
    if fatal:
        pytest.fail(reason)
    pytest.skip(reason)


def missing_program(reason: str) -> None:
    """Skip at home, fail in CI."""
    _missing(reason, fatal=_in_ci())


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The development data: open films, SRs as viewers write them, DICOM objects of many kinds."""
    folder = Path(os.environ.get("DICOMNODE_DATA", PROJECT.parent / "shared" / "data")).resolve()
    if not (folder / "cxr" / "regions.json").is_file():
        _missing(f"no development data at {folder}", fatal=os.environ.get("DICOMNODE_REQUIRE_DATA") == "1")
    return folder


@pytest.fixture(scope="session")
def dcmtk() -> Path:
    """The folder of DCMTK's programs. pynetdicom brings programs of the same names, but no dcmcjpeg."""
    found = shutil.which("dcmcjpeg")
    if not found:
        _missing("DCMTK is not installed: dcmcjpeg not found", fatal=_in_ci())
    return Path(str(found)).parent
