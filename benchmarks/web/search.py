"""Thousands of studies: a page of a QIDO-RS search, plain, with all attributes, by a name, and a long one."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from benchmarks import timing
from benchmarks.web.archives import WebArchive
from benchmarks.web.asker import Asker
from benchmarks.web.rows import Row

ROUNDS = 4  # searches for each round
GOAL_S = 0.1
NAME = "*ND00*"  # of a hundred patients
JSON = "application/dicom+json"


def searches(count: int) -> dict[str, tuple[str, float | None]]:
    """Name to query and goal."""
    return {
        "first 100": ("limit=100", GOAL_S),
        "first 100, includefield=all": ("limit=100&includefield=all", GOAL_S),
        f"PatientName={NAME}, first 100": (f"limit=100&PatientName={NAME}", GOAL_S),
        f"PatientName={NAME}, first 100, includefield=all": (f"limit=100&PatientName={NAME}&includefield=all", GOAL_S),
        f"100 after {count // 2:,}": (f"limit=100&offset={count // 2}", GOAL_S),
        "1,000, what this node answers to a search without a limit": ("limit=1000", None),
    }


def rows(count: int, archives: Mapping[str, WebArchive], failed: Mapping[str, str], repeat: int) -> Iterator[Row]:
    """Each search of the `count` studies, in turn; an archive that finds another number says so."""
    askers = {name: Asker(archive.http_port) for name, archive in archives.items()}
    for name, (query, goal) in searches(count).items():
        works: dict[str, Callable[[], bytes]] = {}
        why_not = dict(failed)
        path = f"/dicom-web/studies?{query}"
        expected = max(_found(asker, path) for asker in askers.values())
        for archive, asker in askers.items():
            found = _found(asker, path)
            if found == expected:
                works[archive] = partial(asker.get, path, JSON)
            else:
                why_not[archive] = f"{found:,} of {expected:,} found"
        taken = timing.in_turn(works, ROUNDS * repeat)
        yield Row(f"QIDO-RS of {count:,} studies, {name}, ms", taken, goal, why_not=why_not)
    for asker in askers.values():
        asker.close()


def _found(asker: Asker, path: str) -> int:
    return len(json.loads(asker.get(path, JSON) or b"[]"))
