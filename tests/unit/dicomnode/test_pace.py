"""How fast and at what hours background work may run, from the texts of the settings."""

from datetime import datetime

import pytest

from dicomnode import config, pace
from dicomnode.errors import ConfigError


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 3, 1, hour, minute)


def test_nothing_said_is_no_pause_and_always() -> None:
    free = pace.parse("", "")
    assert free.pause_s(0.3) == 0
    assert all(free.closed_s(at(hour)) == 0 for hour in range(24))


def test_films_a_second_are_of_all_workers_together() -> None:
    both = pace.parse("4", "", workers=2)
    assert both.pause_s(0.1) == pytest.approx(0.4)
    assert both.pause_s(0.9) == 0


def test_a_share_is_of_each_workers_time() -> None:
    quarter = pace.parse("25%", "", workers=2)
    assert quarter.pause_s(0.2) == pytest.approx(0.6)
    assert pace.parse("100%", "").pause_s(0.2) == 0


@pytest.mark.parametrize(
    ("hours", "now", "closed_h"),
    [
        ("22:00-06:00", at(23), 0),
        ("22:00-06:00", at(5, 59), 0),
        ("22:00-06:00", at(6), 16),
        ("22:00-06:00", at(21, 30), 0.5),
        ("12:00-13:00, 20:00-24:00", at(10), 2),
        ("12:00-13:00, 20:00-24:00", at(13), 7),
        ("12:00-13:00, 20:00-24:00", at(23, 59), 0),
    ],
)
def test_outside_of_its_hours_work_waits_for_the_next(hours: str, now: datetime, closed_h: float) -> None:
    assert pace.parse("", hours).closed_s(now) == closed_h * 3600


@pytest.mark.parametrize("text", ["fast", "0", "-1", "0%", "101%", "nan", "2/s"])
def test_a_throttle_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"reindex\.throttle: must be films a second"):
        config.load(None, {}, {"reindex.throttle": text})


@pytest.mark.parametrize("text", ["22-6", "25:00-26:00", "10:00-10:00", "10:00-24:30", "always"])
def test_a_schedule_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"reindex\.schedule: must"):
        config.load(None, {}, {"reindex.schedule": text})
