"""Callables in, medians out; compared ones are run in turn, because machines drift."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def seconds(work: Callable[[], Any]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(works: Mapping[str, Callable[[], Any]], repeat: int) -> dict[str, list[float]]:
    """Seconds of each, run A B A B ..., after one warm-up round."""
    for work in works.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeat):
        for name, work in works.items():
            taken[name].append(seconds(work))
    return taken


def spread(values: list[float], unit: float = 1.0, digits: int = 1) -> str:
    """median (minimum - maximum)."""
    scaled = [value * unit for value in values]
    return f"{statistics.median(scaled):.{digits}f} ({min(scaled):.{digits}f} - {max(scaled):.{digits}f})"
