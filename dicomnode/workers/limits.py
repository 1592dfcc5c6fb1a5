"""Limits: MiB in, a process that can take no more memory than that beyond what it holds now out.

A file can ask a codec for any amount of memory. The limit is on the process's data (heap, stacks of threads, private
mappings), which is what codecs take: libraries and weights that are mapped from files do not count (getrlimit(2),
RLIMIT_DATA). Only the soft limit is set, so that it can be lifted while another model is loaded.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
Loading = Callable[[], AbstractContextManager[None]]
_STATUS: Final = Path("/proc/self/status")


def without_core_dumps() -> None:
    """A codec that crashes leaves no file with a patient's picture in it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def lifted(mib: int, device: str) -> Iterator[None]:
    """No limit while a model is loaded; after it the process's data grows by `mib` at most, then allocations fail.

    0: no limit. None on a GPU either: its driver maps memory of its own as the process's.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    yield
    held = held_bytes()
    if mib and held is not None and device == "cpu":
        wanted = held + mib * MIB
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def held_bytes() -> int | None:
    """The process's data now; None where the system does not say."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line.split() for line in lines if line.startswith("VmData:")), None)
    return int(found[1]) * 1024 if found else None  # kB, proc(5)
