"""Texts in, how fast and at what hours background work may run out: `reindex.throttle` and `reindex.schedule`.

A throttle is films a second of all workers together (`2`, `0.5`) or the share of each worker's time that it may work
(`25%`). A schedule is hours of the day on this machine's clock (`22:00-06:00`, several separated by commas).
"""

import re
from dataclasses import dataclass
from datetime import datetime

DAY_S = 86_400
_HOURS = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]|24):([0-5]\d)")


@dataclass(frozen=True)
class Pace:
    """`films_per_s`: of all workers together, 0: as many as there are; `share`: of its time that a worker works."""

    films_per_s: float = 0.0
    share: float = 1.0
    hours: tuple[tuple[int, int], ...] = ()  # (from, until), seconds of the day; () is always
    workers: int = 1  # that share `films_per_s`

    def pause_s(self, took_s: float) -> float:
        """How long a worker rests after a film that took `took_s`."""
        due_s = self.workers / self.films_per_s if self.films_per_s else 0.0
        return max(0.0, due_s - took_s, took_s * (1.0 / self.share - 1.0))

    def closed_s(self, now: datetime) -> float:
        """Seconds until work may begin; 0 when it may now."""
        second = now.hour * 3600 + now.minute * 60 + now.second
        if not self.hours or any(_within(second, *window) for window in self.hours):
            return 0.0
        return float(min((start - second) % DAY_S for start, _ in self.hours))


def _within(second: int, start: int, end: int) -> bool:
    """Hours that end before they begin last over midnight."""
    return start <= second < end if start < end else second >= start or second < end


def parse(throttle: str, schedule: str, workers: int = 1) -> Pace:
    """The pace that both settings say; ValueError, with words, when one cannot be read."""
    films_per_s, share = _throttle(throttle.strip())
    parts = [part.strip() for part in schedule.split(",") if part.strip()]
    return Pace(films_per_s, share, tuple(map(_window, parts)), max(1, workers))


def _throttle(text: str) -> tuple[float, float]:
    if not text:
        return 0.0, 1.0
    number, is_share = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not 0 < value <= (100 if is_share else 1e6):
        raise ValueError("must be films a second, such as 2, or a share of the time, such as 25%")
    return (0.0, value / 100) if is_share else (value, 1.0)


def _window(text: str) -> tuple[int, int]:
    found = _HOURS.fullmatch(text)
    if not found:
        raise ValueError("must be hours of the day, such as 22:00-06:00")
    hours = [int(group) for group in found.groups()]
    start, end = hours[0] * 3600 + hours[1] * 60, hours[2] * 3600 + hours[3] * 60
    if start == end or end > DAY_S:
        raise ValueError("must begin and end at different times of the day, such as 22:00-06:00")
    return start, end


def wrong_throttle(text: str) -> str:
    """What is wrong with a throttle, else ""."""
    return _wrong(text, "")


def wrong_schedule(text: str) -> str:
    """What is wrong with a schedule, else ""."""
    return _wrong("", text)


def _wrong(throttle: str, schedule: str) -> str:
    try:
        parse(throttle, schedule)
    except ValueError as error:
        return str(error)
    return ""
