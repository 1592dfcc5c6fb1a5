"""Items of many threads done together: each gets its own result or error, none waits for ever."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.together import MOST, Together


class Work:
    """Doubles numbers; refuses a list with a negative one whole. The first call waits until it is let go."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.started, self.go = threading.Event(), threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.calls.append(items)
        self.started.set()
        assert self.go.wait(30)
        if min(items) < 0:
            raise ValueError(f"refused: {min(items)}")
        return [2 * item for item in items]


def _crowd(work: Work, numbers: list[int]) -> list[Callable[[], int]]:
    """Let the first item start a call, the others arrive during it, then let go."""
    together = Together[int, int](work)
    with ThreadPoolExecutor(len(numbers)) as pool:
        futures = [pool.submit(together.do, numbers[0])]
        assert work.started.wait(30)
        futures += [pool.submit(together.do, number) for number in numbers[1:]]
        while len(together._waiting) < len(numbers) - 1:
            threading.Event().wait(0.001)
        work.go.set()
    return [future.result for future in futures]


def test_who_comes_meanwhile_goes_along() -> None:
    work = Work()
    results = [result() for result in _crowd(work, list(range(10)))]
    assert results == [2 * number for number in range(10)]
    assert [len(call) for call in work.calls] == [1, 9]


def test_a_call_is_never_too_long() -> None:
    work = Work()
    results = [result() for result in _crowd(work, list(range(MOST + 10)))]
    assert results == [2 * number for number in range(MOST + 10)]
    assert [len(call) for call in work.calls] == [1, MOST, 9]


def test_one_at_fault_fails_alone() -> None:
    results = _crowd(Work(), [1, 2, -3, 4])
    assert [results[i]() for i in (0, 1, 3)] == [2, 4, 8]
    with pytest.raises(ValueError, match="refused: -3"):
        results[2]()


def test_alone() -> None:
    work = Work()
    work.go.set()
    assert Together[int, int](work).do(4) == 8
    with pytest.raises(ValueError, match="-1"):
        Together[int, int](work).do(-1)
