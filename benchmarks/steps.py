"""What a C-STORE costs between wire and answer: processor time and waiting of each step, in one thread, no network."""

import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import objects, timing
from dicomnode.attributes import header, part10
from dicomnode.pixels import headers
from dicomnode.quiet import quiet_libraries
from dicomnode.uids import new_uid
from storage.files import Scratch
from storage.records import KeptFile, NewInstance
from storage.store import Store

OBJECTS = 60  # of each round
SHARING = 8  # instances of one commit
PIECE = 64 << 10  # bytes that come at once
Result = TypeVar("Result")


class Clocks:
    """Seconds of each step: of the processor, and in all."""

    def __init__(self) -> None:
        self.taken: dict[str, list[tuple[float, float]]] = {}

    def step(self, name: str, work: Callable[[], Result]) -> Result:
        """Do it, and note what it took."""
        processor, wall = time.thread_time(), time.perf_counter()
        result = work()
        took = (time.thread_time() - processor, time.perf_counter() - wall)
        self.taken.setdefault(name, []).append(took)
        return result


def run(repeat: int) -> dict[str, Any]:
    """Medians in ms of objects of half a megabyte, each under a UID of its own, in an archive that begins empty."""
    quiet_libraries()
    clocks = Clocks()
    with tempfile.TemporaryDirectory(prefix="bench-steps-") as scratch:
        content = objects.slices(Path(scratch) / "ct", 1)[0].read_bytes()
        with Store.open(Path(scratch) / "root") as store:
            for _ in range(repeat * OBJECTS):
                _stored(clocks, store, content)
            for _ in range(repeat):
                _shared(clocks, store, content)
    rows = {"object": f"CT of 0.5 MB, {repeat * OBJECTS} times; ms of processor / in all"}
    for name, values in clocks.taken.items():
        each = SHARING if name.startswith("catalogue, ") else 1
        rows[name] = " / ".join(
            f"{statistics.median(column) / each * 1000:.2f}" for column in zip(*values, strict=True)
        )
    rows["SHA-256 of it"] = timing.spread([_hashing(content) for _ in range(10)], 1000, 2)
    return rows


def _stored(clocks: Clocks, store: Store, content: bytes) -> None:
    """As `dimse.store` and `intake` do it."""
    uid, sent = new_uid(), part10.read(content)
    assert sent is not None
    head = clocks.step("file meta", lambda: part10.head(sent.sop_class_uid, uid, sent.transfer_syntax_uid))
    scratch = clocks.step("scratch file", store.files.scratch)
    clocks.step("write and hash", lambda: _written(scratch, head, memoryview(content)[sent.size :]))
    own = replace(sent, size=len(head))
    dataset = clocks.step("header, read", lambda: headers.header(scratch.path, own))
    new = clocks.step("header, values", lambda: header.new_instance(dataset, own.transfer_syntax_uid, "BENCH"))
    new = replace(new, sop_instance_uid=uid)
    kept = clocks.step("file and folder durable", lambda: store.files.keep(scratch, uid))
    clocks.step("catalogue", lambda: store.catalog.add(new, kept))


def _shared(clocks: Clocks, store: Store, content: bytes) -> None:
    """The last step alone, of instances that wait at the same time; their files are not there."""
    sent = part10.read(content)
    assert sent is not None
    with store.files.scratch() as scratch:
        _written(scratch, b"", memoryview(content))
        new = header.new_instance(headers.header(scratch.path, sent), sent.transfer_syntax_uid, "BENCH")
    together: list[tuple[NewInstance, KeptFile]] = [
        (replace(new, sop_instance_uid=new_uid()), KeptFile(f"files/{new_uid()}", "0" * 64, 0)) for _ in range(SHARING)
    ]
    clocks.step(f"catalogue, {SHARING} sharing a commit", lambda: store.catalog.add_all(together))


def _written(scratch: Scratch, head: bytes, data: memoryview) -> None:
    scratch.write(head)
    for at in range(0, len(data), PIECE):
        scratch.write(data[at : at + PIECE])


def _hashing(content: bytes) -> float:
    return timing.seconds(lambda: hashlib.sha256(content).digest())
