"""The time that hostile pictures may cost: an end for each group, for the run, and room for those that do no harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spermseg.batch.worker.loss_limits import (
    BRIEFLY_TRIED,
    KEPT_SHARE,
    LITTLE_SHARE,
    NOT_TRIED,
    LossCount,
    LossLimits,
    Trial,
)
from spermseg.errors import ConfigError

LIMITS = LossLimits(group_s=10, run_s=40)
LONGEST_S = 3
hostile = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(Trial), st.integers(1, LONGEST_S)))


@given(hostile)
def test_whatever_is_uploaded_neither_a_group_nor_the_run_loses_more_than_its_limit_and_one_picture(pictures):
    count = LossCount(LIMITS)
    lost: dict[tuple[str, Trial], int] = {}
    for group, trial, seconds in pictures:
        if count.refusal(group, trial) is None:
            count.lose(group, trial, seconds)
            lost[group, trial] = lost.get((group, trial), 0) + seconds
    assert all(seconds < LIMITS.group_s + LONGEST_S for seconds in lost.values())
    for trial in Trial:
        assert sum(seconds for (_, how), seconds in lost.items() if how is trial) < LIMITS.run_s + LONGEST_S


@given(hostile)
def test_groups_that_lose_much_leave_half_of_the_run_to_the_others(pictures):
    count = LossCount(LIMITS)
    for group in "abcdefgh":
        count.lose(group, Trial.BRIEF, LITTLE_SHARE * LIMITS.group_s)
    run_s = 8 * LITTLE_SHARE * LIMITS.group_s
    for group, _, seconds in pictures * 20:
        if count.refusal(group, Trial.BRIEF) is None:
            count.lose(group, Trial.BRIEF, seconds)
            run_s += seconds
    assert run_s < LIMITS.run_s * KEPT_SHARE + LONGEST_S
    assert count.refusal("innocent", Trial.BRIEF) is None


def test_a_refusal_says_what_was_lost_and_whether_there_was_a_brief_trial():
    count = LossCount(LIMITS)
    for trial in Trial:
        count.lose("a", trial, 10)
    behind = "pictures of its group crashed or hung the decoder for 10 s; --retry-rejected tries it again"
    assert count.refusal("a", Trial.BRIEF) == f"{NOT_TRIED}: {behind}"
    assert count.refusal("a", Trial.FULL) == f"{BRIEFLY_TRIED}: {behind}"
    assert count.refusal("b", Trial.BRIEF) is None


def test_a_picture_that_is_found_to_be_whole_costs_its_group_nothing_but_the_run():
    count = LossCount(LossLimits(group_s=10, run_s=12))
    count.lose("a", Trial.BRIEF, 10)
    count.forgive("a", Trial.BRIEF, 10)
    assert count.refusal("a", Trial.BRIEF) is None
    count.lose("b", Trial.BRIEF, 2)
    assert count.refusal("a", Trial.BRIEF).startswith("not tried: other pictures crashed or hung")


@pytest.mark.parametrize("wrong", [{"group_s": 0}, {"run_s": -1}])
def test_a_limit_of_no_time_is_refused(wrong):
    with pytest.raises(ConfigError, match="more than 0 is needed"):
        LossLimits(**wrong)
