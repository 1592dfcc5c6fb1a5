"""Mutated files of the development data: through the header reader, through the decoder in a child, through a node."""

import random
import subprocess
import sys

import pytest

from dicomnode.attributes.header import new_instance, read_header
from dicomnode.errors import DecodeError, InvalidInstance
from dicomnode.pixels import headers
from tests import nodes
from tests.fuzz import objects, run
from tests.fuzz.mutate import mutated

SEED = 20240601
HEADERS, PICTURES, SENT = 600, 120, 150

CHILD = """
import resource, sys
from pathlib import Path
from dicomnode.errors import DecodeError, NotIndexable
from dicomnode.pixels import decode
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, flush=True)
    for attempt in (lambda: decode.film(path, decode.Policy()), lambda: decode.image(path, 1, decode.DecodeLimits())):
        try:
            attempt()
        except (DecodeError, NotIndexable):
            pass
print("done")
"""


@pytest.fixture(scope="module")
def paths(data_dir):
    found = sorted(path for name in ("dicom", "sr") for path in (data_dir / name).rglob("*.dcm"))
    return [path for path in found if path.stat().st_size <= objects.LARGEST]


def spoilt(content: bytes, rng: random.Random) -> bytes:
    """A file whose own head is whole, as the node writes it, and whose data set is not."""
    start = 144 + int.from_bytes(content[140:144], "little")
    return content[:start] + mutated(content[start:], rng)


@pytest.mark.data
def test_a_mutated_header_is_read_or_refused(paths, tmp_path):
    rng = random.Random(SEED)
    target = tmp_path / "mutated.dcm"
    outcomes = set()
    for _ in range(HEADERS):
        path = rng.choice(paths)
        target.write_bytes(spoilt(path.read_bytes(), rng))
        try:
            dataset = headers.header(target)
            new = new_instance(dataset, str(dataset.file_meta.TransferSyntaxUID))
            read_header(new.header)
            outcomes.add("read")
        except (DecodeError, InvalidInstance) as refused:
            assert 0 < len(str(refused)) <= 64, path.name
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.data
def test_a_mutated_picture_is_decoded_or_refused(paths, tmp_path):
    rng = random.Random(SEED + 1)
    for number in range(PICTURES):
        path = rng.choice(paths)
        (tmp_path / f"{number:04}.dcm").write_bytes(spoilt(path.read_bytes(), rng))
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert done.stdout.splitlines()[-1] == "done", (done.stdout.splitlines()[-1], done.stderr[-2000:])


@pytest.mark.data
@pytest.mark.timeout(300)
def test_a_node_survives_mutated_objects_and_loses_nothing(data_dir, tmp_path):
    with nodes.running_node(tmp_path / "root", "--workers", "1", environment=run.ENVIRONMENT) as node:
        report = run.Fuzz(node, objects.samples(data_dir), SEED).run(SENT)
        run.settle(node, 120.0)
        run.check(node, report)
    assert report.wrong == []
    assert {"C-STORE 0x0000", "C-STORE 0xC000"} <= set(report.outcomes)
    assert report.grown_mib < 100
