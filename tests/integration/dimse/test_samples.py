"""Objects that others wrote, of every kind in the development data: each ends indexed, or not with the right reason."""

from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.dimse import client
from dicomnode.quiet import quiet_pydicom
from storage.store import Store
from tests import nodes

# First match wins. What is in `dicom` and `sr` of the data folder, and the reason that it is no film; "": it is one.
REASONS = (
    ("dicom/dcmjs/*", "structured report"),
    ("dicom/dcmqi/ct-3slice/*", "modality is not a radiograph: CT"),
    ("dicom/dcmqi/sr-example/sr.dcm", "structured report"),
    ("dicom/dcmqi/sr-example/rwvm.dcm", "modality is not a radiograph: RWV"),
    ("dicom/dcmqi/*", "segmentation"),
    ("dicom/dcmqi/sr-example/seg.dcm", "segmentation"),
    ("dicom/highdicom/ct_image.dcm", "modality is not a radiograph: CT"),
    ("dicom/highdicom/dx_image.dcm", ""),
    ("dicom/highdicom/seg_*", "segmentation"),
    ("dicom/highdicom/sm_annotations.dcm", "modality is not a radiograph: ANN"),
    ("dicom/highdicom/sm_*", "modality is not a radiograph: SM"),
    ("dicom/highdicom/sr_*", "structured report"),
    ("dicom/pynetdicom/CT*", "modality is not a radiograph: CT"),
    ("dicom/pynetdicom/MR*", "modality is not a radiograph: MR"),
    ("dicom/pynetdicom/RT*", "modality is not a radiograph: RTIMAGE"),
    ("dicom/pynetdicom/SC*", "capture without a chest body part"),
    ("dicom/totalseg_ct_dicom/*", "modality is not a radiograph: CT"),
    ("sr/dx_image.dcm", ""),
    ("sr/kos.dcm", "key object selection"),
    ("sr/*", "structured report"),
)


def expected(path: Path, data_dir: Path) -> str:
    inside = path.relative_to(data_dir)
    return next(reason for pattern, reason in REASONS if inside.match(pattern))


def sop_instance_uid(path: Path) -> str:
    with quiet_pydicom():
        return str(dcmread(path, stop_before_pixels=True).get("SOPInstanceUID", ""))


@pytest.mark.data
@pytest.mark.timeout(300)
def test_every_object_ends_as_what_it_is(data_dir, tmp_path):
    paths = client.dicom_files([data_dir / "dicom", data_dir / "sr"])
    assert len(paths) > 60
    with nodes.running_node(tmp_path / "root", "--workers", "1") as node:
        with quiet_pydicom():
            kept = [sent.path for sent in client.send(node.peer, paths) if sent.ok]
        nodes.dicomnode("wait", "--root", node.root, "--timeout", "120")
    assert len(kept) > 50  # some have no study: refused, and said so (test_store)
    with Store.open(tmp_path / "root") as store:
        ended = {row.sop_instance_uid: (row.state, row.reason) for row in store.jobs.failures(1000)}
        counts = store.jobs.counts(store.generations.live().id)
    assert (counts.queued, counts.failed) == (0, 0)
    for path in kept:
        reason = expected(path, data_dir)
        found = ended.get(sop_instance_uid(path), ("indexed", ""))
        assert found == ("not_indexable" if reason else "indexed", reason), path.name
