"""Mapping ahead: in order, bounded in number and bytes, and over at the first thing that goes wrong."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spermseg.storage.prefetch import map_ahead


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 6), st.integers(0, 120))
@settings(max_examples=50, deadline=None)
def test_mapping_ahead_keeps_the_order_and_holds_never_more_than_it_may_but_for_one_that_is_too_large(
    sizes, count, total
):
    held: list[int] = []
    seen: list[list[int]] = []
    lock = threading.Lock()

    def work(size):
        with lock:
            held.append(size)
            seen.append(list(held))
        return size

    found = []
    with ThreadPoolExecutor(3) as pool:
        for size in map_ahead(pool, work, sizes, count=count, size=lambda size: size, total=total):
            found.append(size)
            with lock:
                held.remove(size)
            time.sleep(0)
    assert found == sizes
    for at_once in seen:
        assert len(at_once) <= count
        assert sum(at_once) <= total or len([size for size in at_once if size]) == 1


def test_so_many_are_under_way_at_once():
    met = threading.Barrier(4, timeout=60)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(map_ahead(pool, lambda item: met.wait() >= 0, range(8), count=4))) == 8


@pytest.mark.parametrize("count", [1, 3])
def test_what_goes_wrong_comes_in_its_place_and_what_is_not_begun_never_is(count):
    begun = []

    def work(item):
        begun.append(item)
        if item == 5:
            raise ZeroDivisionError
        return item

    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(pool, work, range(100), count=count)
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(ZeroDivisionError):
            next(results)
    assert len(begun) <= 5 + count


def test_what_nobody_takes_any_more_is_not_begun():
    begun = []
    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(pool, begun.append, range(100), count=3)
        next(results)
        results.close()
    assert len(begun) <= 4
