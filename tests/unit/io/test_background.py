"""Work in a thread beside this one."""

from __future__ import annotations

import contextlib
import threading

import pytest

from parity.io.background import Behind, ahead
from parity.spec.errors import InputError, all_listed, listed
from tests.background_threads import BRIEFLY, PATIENCE, threads


def test_the_next_is_made_while_one_is_used() -> None:
    """Catches items made only when they are asked for, all at once, or in another order."""
    begun = [threading.Event() for _ in range(4)]
    made = []

    def make(i: int) -> int:
        made.append(i)
        begun[i].set()
        return i

    with contextlib.closing(ahead(make, 4)) as items:
        for i in range(4):
            assert next(items) == i
            assert i == 3 or begun[i + 1].wait(PATIENCE)
            assert i + 2 >= 4 or not begun[i + 2].wait(BRIEFLY)  # and no further
            assert made == list(range(min(i + 2, 4)))
        assert next(items, None) is None
    assert threads() == []


def test_messages_list_all_in_the_thread_too() -> None:
    """Catches `--verbose` that is forgotten where an image is read or counted."""
    counted: list[str] = []
    with all_listed():
        assert list(ahead(lambda i: listed(range(9)), 2)) == ["0, 1, 2, 3, 4, 5, 6, 7, 8"] * 2
        with Behind() as counting:
            for _ in range(2):
                counting.do(lambda: counted.append(listed(range(9))))
    assert counted == ["0, 1, 2, 3, 4, 5, 6, 7, 8"] * 2
    assert list(ahead(lambda i: listed(range(9)), 1)) == ["0, 1, 2, 3, 4 and 4 more"]


def test_nothing_to_make() -> None:
    """Catches an item of an empty data set."""
    assert list(ahead(lambda i: i, 0)) == []


def test_an_error_comes_in_its_place() -> None:
    """Catches items lost before the one that cannot be made, and an error that is swallowed."""

    def make(i: int) -> int:
        if i == 2:
            raise InputError("no image")
        return i

    found = []
    with pytest.raises(InputError, match="no image"):
        found.extend(ahead(make, 4))  # the list holds what came before
    items = ahead(make, 4)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(InputError, match="no image"):
        next(items)
    assert threads() == []


def test_who_leaves_early_leaves_nothing_behind() -> None:
    """Catches a thread that reads on after Ctrl-C."""

    def interrupted() -> None:
        with contextlib.closing(ahead(lambda i: i, 10**6)) as items:
            next(items)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert threads() == []


def test_calls_behind_are_done_in_order_and_one_at_a_time() -> None:
    """Catches a call that the caller waits for, two at once, or one that is left out."""
    gate, done, running = threading.Event(), [], []

    def call(i: int) -> None:
        running.append(i)
        assert gate.wait(PATIENCE)
        done.append(i)
        assert running == done

    with Behind() as counting:
        counting.do(lambda: call(0))
        assert done == []  # it came back before
        gate.set()
        for i in range(1, 5):
            counting.do(lambda i=i: call(i))  # type: ignore[misc]  # a default binds i
            assert len(done) >= i  # at most one is unfinished
    assert done == [0, 1, 2, 3, 4]
    assert threads() == []


def fail() -> None:
    raise InputError("not counted")


@pytest.mark.parametrize("more", [0, 1])
def test_an_error_behind_is_told(more: int) -> None:
    """Catches an image that was not counted, and is not missed."""
    done: list[int] = []

    def work() -> None:
        with Behind() as counting:
            counting.do(fail)
            for _ in range(more):
                counting.do(lambda: done.append(1))

    with pytest.raises(InputError, match="not counted"):
        work()
    assert done == []


def test_the_first_error_is_told() -> None:
    """Catches an error of the thread in the place of the one that ended the work."""
    done: list[int] = []

    def work() -> None:
        with Behind() as counting:
            counting.do(lambda: done.append(1))
            counting.do(fail)
            raise FloatingPointError("logits")

    with pytest.raises(FloatingPointError, match="logits"):
        work()
    assert done == [1]
    assert threads() == []
