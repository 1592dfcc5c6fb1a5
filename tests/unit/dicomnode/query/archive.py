"""Made-up instances and a catalogue of them, for the C-FIND tests."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicomnode.attributes.header import new_instance
from storage.records import KeptFile
from storage.store import Store

EXPLICIT = "1.2.840.10008.1.2.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"

JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
KOREAN = "Hong^Gildong=洪^吉洞=홍^길동"
GREEK = "Διονυσιος"
GERMAN = "Äneas^Rüdiger"


def instance(study: int, series: int = 1, image: int = 1, **values: Any) -> Dataset:
    """A DX instance with what every test needs; `values` by keyword, None removes one."""
    dataset = Dataset()
    charset = values.pop("SpecificCharacterSet", None)
    if charset:
        dataset.SpecificCharacterSet = charset
    defaults = {
        "SOPClassUID": DX,
        "SOPInstanceUID": f"1.2.3.{study}.{series}.{image}",
        "StudyInstanceUID": f"1.2.3.{study}",
        "SeriesInstanceUID": f"1.2.3.{study}.{series}",
        "PatientID": f"P{study}",
        "Modality": "DX",
    }
    for keyword, value in {**defaults, **values}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def keep(store: Store, datasets: Iterable[Dataset]) -> None:
    """Catalogue the instances; their files are not made."""
    for number, dataset in enumerate(datasets):
        new = new_instance(dataset, EXPLICIT, "SENDER")
        kept = KeptFile(f"{new.sop_instance_uid}.{number}", f"{number:064x}", 1)
        store.catalog.add(new, kept)


def opened(root: Path, datasets: Iterable[Dataset]) -> Store:
    """A store under `root` with these instances in its catalogue."""
    store = Store.open(root)
    keep(store, datasets)
    return store


def asked(level: str, **keys: Any) -> Dataset:
    """An identifier; a keyword with "" asks for the attribute."""
    identifier = Dataset()
    charset = keys.pop("SpecificCharacterSet", None)
    if charset:
        identifier.SpecificCharacterSet = charset
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        # Ranges and wild cards are no valid values of their VR.
        made = DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE)
        identifier.add(made)
    return identifier
