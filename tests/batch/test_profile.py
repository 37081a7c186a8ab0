"""Where the time went: sums, shares and the advice that follows from them."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spermseg.batch.profile import Profile
from spermseg.batch.worker.timing import Spent, peak_bytes

amounts = st.floats(0, 1e6)
spents = st.builds(Spent, **{one.name: amounts for one in fields(Spent)})


def profile(**spent: float) -> Profile:
    found = Profile(decode_threads=2)
    found.add("host:1", Spent(**spent))
    return found


@given(spents, spents)
def test_what_two_units_took_is_the_sum_of_both_and_their_peak_the_larger(one, other):
    both = one + other
    assert both.peak_bytes == max(one.peak_bytes, other.peak_bytes)
    for name in {field.name for field in fields(Spent)} - {"peak_bytes"}:
        assert getattr(both, name) == getattr(one, name) + getattr(other, name)


@given(spents)
def test_every_table_can_be_shown(spent):
    found = Profile(decode_threads=2)
    found.add("host:1", spent)
    assert len(found.table().splitlines()) == 7


def test_shares_are_those_of_the_workers_that_were_there():
    found = profile(segment_s=8, write_s=1, idle_s=1, network_s=6, decode_s=4, measure_s=1, megapixels=12, fetch_s=2,
                    fetched_bytes=5e6)  # fmt: skip
    found.add("host:2", Spent(segment_s=10, network_s=10, megapixels=8))
    lines = {line.split()[0]: line.split()[1:4] for line in found.table().splitlines()}
    assert lines["network"] == ["1.60", "80%", "1.2"]  # 16 s of two workers that were there for 10 s each
    assert lines["decode"] == ["0.40", "10%", "5.0"]  # of four threads
    assert lines["fetch"] == ["0.20", "-", "10.0"]


@pytest.mark.parametrize(
    ("spent", "said"),
    [
        ({"segment_s": 10, "network_s": 9}, "network-bound: more workers, or GPUs"),
        ({"segment_s": 10, "wait_s": 6, "network_s": 4, "decode_s": 19}, "decode-bound: add 3 CPUs a worker"),
        ({"segment_s": 10, "wait_s": 10, "decode_s": 20}, "decode-bound: add 1 CPUs a worker"),
        ({"segment_s": 5, "idle_s": 5, "network_s": 5}, "fetch-bound: the storage"),
        ({"segment_s": 10, "wait_s": 2, "idle_s": 1, "network_s": 8, "decode_s": 16}, "decode-bound"),
    ],
)
def test_the_bottleneck_is_what_workers_wait_for_most(spent, said):
    assert profile(**spent).advice().startswith(said)


def test_of_no_unit_nothing_is_said():
    assert "nothing was segmented" in Profile(decode_threads=2).table()


def test_the_peak_of_this_process_is_more_than_the_interpreter_needs():
    assert 1e7 < peak_bytes() < 1e11
