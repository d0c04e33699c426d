from __future__ import annotations

import time
from collections import Counter

import pytest

from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.tools.measure.rounds import Call, Schedule, measure_rounds

ONE_EACH = Schedule(seconds=0.0, calls=6, rounds=6, settle_s=0.0)


def silent(done: int, rounds: int) -> None:
    pass


def recorded(names: str, log: list[str]) -> dict[str, Call]:
    return {name: (lambda n=name: log.append(n)) for name in names}  # type: ignore[misc]


def test_every_contestant_has_one_slot_a_round_and_each_comes_first() -> None:
    log: list[str] = []
    contest = measure_rounds(recorded("abc", log), ONE_EACH, silent)
    turns = log[::2]  # a call that settles, a call that counts
    assert log[1::2] == turns
    rounds = [turns[i : i + 3] for i in range(0, 18, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert Counter(order[0] for order in rounds) == {"a": 2, "b": 2, "c": 2}
    assert len({tuple(order) for order in rounds}) == 6  # no fixed neighbours
    assert [len(times) for times in contest.series["b"].rounds] == [1] * 6


def test_calls_just_after_a_change_of_engine_do_not_count() -> None:
    last = [""]

    def call(name: str) -> None:
        if last[0] != name:
            time.sleep(0.02)
        last[0] = name

    calls = {"a": lambda: call("a"), "b": lambda: call("b")}
    contest = measure_rounds(calls, ONE_EACH, silent)
    assert all(max(series.medians) < 20 for series in contest.series.values())


def test_a_slot_settles_for_its_time() -> None:
    log: list[str] = []
    schedule = Schedule(seconds=0.0, calls=1, rounds=1, settle_s=0.03)
    start = time.perf_counter()
    contest = measure_rounds(recorded("a", log), schedule, silent)
    assert time.perf_counter() - start >= 0.03
    assert len(log) > 100
    assert len(contest.series["a"].calls) == 1


def test_both_minimums_hold() -> None:
    start = time.perf_counter()
    fast = measure_rounds(
        {"a": lambda: None}, Schedule(0.04, calls=2, rounds=2, settle_s=0.0), silent
    )
    assert time.perf_counter() - start >= 0.04
    assert len(fast.series["a"].calls) > 1000
    slow = measure_rounds(
        {"a": lambda: time.sleep(0.002)}, Schedule(1e-6, calls=9, rounds=2, settle_s=0.0), silent
    )
    assert [len(times) for times in slow.series["a"].rounds] == [5, 5]
    assert slow.series["a"].medians == pytest.approx([2, 2], abs=1.5)


def test_an_engine_that_fails_leaves_and_the_others_go_on() -> None:
    log: list[str] = []

    def fail() -> None:
        if log.count("b") > 3:
            raise EngineError("the device fell off")

    contest = measure_rounds({"a": fail, **recorded("b", log)}, ONE_EACH, silent)
    assert contest.failures == {"a": "the device fell off"}
    assert set(contest.series) == {"b"}
    assert len(contest.series["b"].rounds) == 6


def test_what_is_no_engine_error_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        measure_rounds({"a": lambda: 1 // 0}, ONE_EACH, silent)


def test_busy_cores_are_counted() -> None:
    def work() -> None:
        sum(range(20000))

    schedule = Schedule(0.1, calls=1, rounds=2, settle_s=0.0)
    calls = {"sleeps": lambda: time.sleep(0.01), "works": work}
    series = measure_rounds(calls, schedule, silent).series
    assert series["sleeps"].cores < 0.3
    # One thread; less where others want the core.
    assert series["sleeps"].cores < series["works"].cores < 1.2
