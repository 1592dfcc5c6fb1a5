"""The development data in, objects as they go over the wire out, each time under a UID of its own."""

from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.filereader import read_file_meta_info

from dicomnode.dimse import client
from dicomnode.quiet import quiet_pydicom

LARGEST = 300_000  # bytes: the header is what is read, pixels only make it slow
_META_START = 128 + 4 + 12
_DIGITS = 10  # of a UID that are replaced


@dataclass(frozen=True)
class Sample:
    """One file of the development data."""

    name: str
    sop_class_uid: str
    transfer_syntax_uid: str
    uid: str
    data_set: bytes

    def numbered(self, number: int) -> "Sample":
        """The same object under another UID of the same length. A deflated one keeps its own."""
        uid = self.uid[:-_DIGITS] + f"{7_000_000_000 + number}"
        return Sample(
            self.name,
            self.sop_class_uid,
            self.transfer_syntax_uid,
            uid if self.uid.encode() in self.data_set else self.uid,
            self.data_set.replace(self.uid.encode(), uid.encode()),
        )


def samples(data_dir: Path) -> list[Sample]:
    """Every object under `dicom` and `sr` that names itself and is not too large."""
    paths = client.dicom_files([data_dir / "dicom", data_dir / "sr"])
    found = [_sample(path) for path in paths if path.stat().st_size <= LARGEST]
    return [sample for sample in found if sample.sop_class_uid and len(sample.uid) > 2 * _DIGITS]


def _sample(path: Path) -> Sample:
    with quiet_pydicom():
        meta = read_file_meta_info(path)
        dataset = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"], stop_before_pixels=True)
    content = path.read_bytes()[_META_START + int(meta.FileMetaInformationGroupLength) :]
    identity = (
        str(dataset.get("SOPClassUID", "")),
        str(meta.TransferSyntaxUID),
        str(dataset.get("SOPInstanceUID", "")),
    )
    return Sample(path.name, *identity, content)
