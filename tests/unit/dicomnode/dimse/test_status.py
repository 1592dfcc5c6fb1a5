"""Errors become statuses in one place, with a comment fit for the wire."""

import inspect

import pytest

from dicomnode import errors
from dicomnode.dimse import status
from storage.errors import DatabaseAway, DatabaseError, FileError, StorageFull


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInstance("SOPInstanceUID is missing"), 0xC000),
        (errors.PatientConflict("study belongs to another patient"), 0xA900),
        (errors.IdentifierError("x"), 0xA900),
        (errors.RoiError("SR has no region"), 0xA900),
        (errors.ImageNotStored("image not stored: send it first"), 0xA900),
        (errors.NotReady("no index yet"), 0xA700),
        (StorageFull("no room"), 0xA700),
        (FileError("x"), 0xA700),
        (DatabaseAway("x"), 0xA700),
        (errors.ModelFailure("x"), 0xC001),
        (DatabaseError("x"), 0xC001),
        (ZeroDivisionError("x"), 0xC001),
    ],
)
def test_every_error_has_its_status(error, code):
    found, comment = status.failure(error)
    assert found == code
    assert comment


def test_the_text_of_an_unforeseen_error_stays_here():
    assert status.comment_of(ValueError("PatientName Miller")) == status.UNFORESEEN
    assert "Miller" not in status.failure(KeyError("Miller"))[1]


def test_comments_are_64_printable_characters():
    comment = status.comment_of(errors.IdentifierError("é\n\\" + "x" * 100))
    assert len(comment) == 64
    assert comment.startswith("???x")


def test_every_error_of_the_package_is_in_the_tree_on_top_of_its_module():
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]
    assert len(classes) > 8
    for cls in classes:
        assert cls.__name__ in (errors.__doc__ or "")
        assert issubclass(cls, errors.DicomNodeError)
