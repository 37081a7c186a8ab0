from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spermseg.batch.reject_limit import RejectLimit, check_rejected, read_reject_limit
from spermseg.errors import ConfigError, RunError, TooManyRejectedError


def receipt(rejected: int, planned: int, **reasons: int):
    return SimpleNamespace(run_id="night-1", rejected=rejected, planned=planned, reasons=reasons)


@given(planned=st.integers(1, 10**6), share=st.integers(0, 100), data=st.data())
def test_a_share_allows_what_the_count_of_as_many_allows(planned, share, data):
    rejected = data.draw(st.integers(0, planned))
    assert read_reject_limit(f"{share}%").allows(rejected, planned) == (100 * rejected <= share * planned)
    assert read_reject_limit(f"{planned * share // 100}").allows(rejected, planned) == (
        rejected <= planned * share // 100
    )


@pytest.mark.parametrize("text", ["20%", "0", "0%", "100%", "500", "12.5%"])
def test_a_limit_is_shown_as_it_was_typed(text):
    assert str(read_reject_limit(text)) == text
    assert read_reject_limit(f" {text} ") == read_reject_limit(text)


@pytest.mark.parametrize("text", ["", "%", "half", "-1", "-5%", "101%", "20 percent", "1e3", "0.2", "\u0665", "5%%"])
def test_what_is_no_limit_is_refused_with_what_is_needed(text):
    with pytest.raises(ConfigError, match=r"(such as 20%, or a count such as 500)|(a share of 0% to 100% or a count)"):
        read_reject_limit(text)


@pytest.mark.parametrize(("percent", "count"), [(None, None), (5, 5), (-1, None), (None, -1), (101, None)])
def test_a_limit_is_a_share_or_a_count(percent, count):
    with pytest.raises(ConfigError):
        RejectLimit(percent=percent, count=count)


def test_a_run_at_its_limit_passes_and_over_it_says_how_many_and_why():
    check_rejected([receipt(2, 10), receipt(0, 0)], read_reject_limit("20%"))
    with pytest.raises(TooManyRejectedError) as caught:
        check_rejected([receipt(0, 9), receipt(9, 10, a=1, b=4, c=1, d=3)], read_reject_limit("20%"))
    assert isinstance(caught.value, RunError)
    assert caught.value.message == (
        "run night-1 rejected 9 of 10, more than the limit of 20%: 4 x b; 3 x d; 1 x a; all rows are written; "
        "mend the cause, then --retry-rejected tries these again"
    )
