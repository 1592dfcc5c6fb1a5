"""UIDs and conditions in, the instances with their studies and patients that an audit message names out."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from dicomnode.audit.gathering import Instance, Whose
from storage.catalog import Catalog
from storage.records import AnyOf, Condition, NewInstance, Row

CHUNK: Final = 500  # UIDs of one statement
_COLUMNS: Final = ("patient_id", "patient_name", "accession_number", "sop_class_uid")


def stored(catalog: Catalog, conditions: Iterable[Condition]) -> Iterator[Instance]:
    """Every stored instance that meets the conditions."""
    return (_instance(row) for row in catalog.find("IMAGE", conditions, wanted=_COLUMNS))


def named(catalog: Catalog, uids: Sequence[str]) -> Iterator[Instance]:
    """The instances of these SOP Instance UIDs, as far as they are stored."""
    for start in range(0, len(uids), CHUNK):
        yield from stored(catalog, [AnyOf("sop_instance_uid", tuple(uids[start : start + CHUNK]))])


def arrived(new: NewInstance) -> Instance:
    """What a header says of itself."""
    study, patient = new.study, new.patient
    whose = Whose(
        study.study_instance_uid, patient.patient_id, patient.patient_name or "", study.accession_number or ""
    )
    return Instance(whose, new.sop_class_uid, new.sop_instance_uid)


def _instance(row: Row) -> Instance:
    whose = Whose(
        row["study_instance_uid"], row["patient_id"], row["patient_name"] or "", row["accession_number"] or ""
    )
    return Instance(whose, row["sop_class_uid"], row["sop_instance_uid"])
