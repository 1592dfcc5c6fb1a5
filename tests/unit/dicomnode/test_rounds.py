"""A thread that does what is due: all of it, again after a failure, and nothing new once it is stopped."""

import logging
import threading

from dicomnode.rounds import Rounds


def test_all_that_is_due_is_done_and_a_wake_up_ends_the_wait():
    due, seen = [1, 2, 3], threading.Semaphore(0)

    def step():
        if not due:
            return False
        due.pop()
        seen.release()
        return True

    rounds = Rounds("rounds", step, 3600.0, "not done")
    rounds.start()
    assert all(seen.acquire(timeout=10) for _ in range(3))
    due.append(4)
    rounds.wake()
    assert seen.acquire(timeout=10)
    rounds.stop()
    rounds.join()
    assert rounds.stopping


def test_a_step_that_fails_is_tried_again_and_told_without_its_words(caplog):
    tries, done = [], threading.Event()

    def step():
        tries.append(1)
        if len(tries) < 3:
            raise OSError("a patient's name")
        done.set()
        return False

    rounds = Rounds("rounds", step, 0.01, "not done")
    with caplog.at_level(logging.ERROR, logger="dicomnode"):
        rounds.start()
        assert done.wait(10)
        rounds.stop()
        rounds.join()
    assert caplog.text.count("not done, the next round tries again") == 2
    assert "patient" not in caplog.text


def test_what_was_never_started_ends_at_once():
    rounds = Rounds("rounds", lambda: True, 0.01, "not done")
    rounds.stop()
    rounds.join()
