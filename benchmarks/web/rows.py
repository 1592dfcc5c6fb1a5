"""Seconds of each archive in, a row of the table out: median, range, ratio, and whether the goal was met."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks import timing

OURS, OTHER = "dicomnode", "Orthanc"
COLUMNS = ("", OURS, OTHER, "goal")


@dataclass(frozen=True)
class Row:
    """One measure. `goal_s`: of the median, `slowest_goal_s`: of nine in ten; `megabytes`: told as MB/s, not as ms."""

    name: str
    taken: Mapping[str, list[float]]
    goal_s: float | None = None
    slowest_goal_s: float | None = None
    megabytes: float = 0.0
    why_not: Mapping[str, str] = field(default_factory=dict)

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        return self.name, self._told(OURS), self._told(OTHER), self._verdict()

    def _told(self, name: str) -> str:
        if name not in self.taken:
            return self.why_not.get(name, "")
        values = self.taken[name]
        told = timing.spread([self.megabytes / value for value in values] if self.megabytes else _ms(values), digits=0)
        if self.slowest_goal_s is not None:
            told += f", 90 % within {nine_in_ten(values) * 1000:.0f}"
        if name != OURS and OURS in self.taken:
            told += f", {statistics.median(values) / statistics.median(self.taken[OURS]):.1f} x"
        return told

    def _verdict(self) -> str:
        values = self.taken.get(OURS)
        if self.goal_s is None or values is None:
            return ""
        goals = [(statistics.median(values), self.goal_s, "")]
        if self.slowest_goal_s is not None:
            goals.append((nine_in_ten(values), self.slowest_goal_s, "90 % "))
        said = ", ".join(f"{what}< {goal * 1000:.0f}" for _, goal, what in goals)
        return f"{said}: {'met' if all(value < goal for value, goal, _ in goals) else 'missed'}"


def nine_in_ten(values: list[float]) -> float:
    """What nine in ten stay within; of one value itself."""
    return statistics.quantiles(values, n=10, method="inclusive")[-1] if len(values) > 1 else values[0]


def _ms(values: list[float]) -> list[float]:
    return [value * 1000 for value in values]
