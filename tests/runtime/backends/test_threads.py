from __future__ import annotations

import threading

import pytest

from vit_edge.runtime.backends.threads import LendingPool
from vit_edge.runtime.errors import ClosedError


def test_an_item_is_one_threads_at_a_time() -> None:
    pool, busy, clashes = LendingPool([[0], [0]]), threading.Barrier(8), []

    def work() -> None:
        busy.wait()
        for _ in range(500):
            with pool.lend() as item:
                item[0] += 1
                if item[0] != 1:
                    clashes.append(item[0])
                item[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []


def test_closing_waits_for_what_is_lent_and_frees_once() -> None:
    pool, freed, lent, go = LendingPool(["a", "b"]), [], threading.Event(), threading.Event()

    def work() -> None:
        with pool.lend():
            lent.set()
            go.wait(10)
            assert freed == []

    worker = threading.Thread(target=work)
    worker.start()
    lent.wait(10)
    closer = threading.Thread(target=pool.close, args=(freed.append,))
    closer.start()
    go.set()
    worker.join()
    closer.join()
    pool.close(freed.append)
    assert sorted(freed) == ["a", "b"]
    with pytest.raises(ClosedError), pool.lend():
        pass


def test_those_who_wait_learn_that_it_was_closed() -> None:
    pool, outcome, waiting = LendingPool(["a"]), [], threading.Event()

    def wait() -> None:
        waiting.set()
        try:
            with pool.lend():
                outcome.append("lent")
        except ClosedError:
            outcome.append("closed")

    with pool.lend():
        waiter = threading.Thread(target=wait)
        waiter.start()
        waiting.wait(10)
        closer = threading.Thread(target=pool.close, args=(lambda item: None,))
        closer.start()
        waiter.join(10)
    closer.join(10)
    assert outcome == ["closed"]


def test_an_item_comes_back_from_a_block_that_raised() -> None:
    pool = LendingPool(["a"])
    with pytest.raises(KeyError), pool.lend():
        raise KeyError
    with pool.lend() as item:
        assert item == "a"
