"""Whatever strangers upload, only a `SpermsegError` comes out, in bounded time and memory.

`python benchmarks/trust/fuzz.py` tries many more mutations; a failure here is replayed by the same kind and seed there.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import readers
from laws.bounded_child import BoundedChild
from laws.kinds import KINDS
from laws.mutations import mutate
from laws.planted import read_planted
from laws.real_files import real_files

from spermseg.errors import MicrographError

SEEDS = range(20)
"""Of each of the ten kinds: 200 mutations."""
PLANTED_HANG_S = 2.0


@pytest.fixture(scope="module")
def child():
    with BoundedChild() as child:
        yield child


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_done_to_a_real_file_only_our_own_errors_come_out_in_bounded_time_and_memory(child, kind):
    outcomes = list(child.outcomes((kind, seed, mutate(kind, seed)) for seed in SEEDS))
    assert not [outcome for outcome in outcomes if outcome.failure]
    assert any(outcome.reasons for outcome in outcomes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_real_files_are_accepted_as_they_are(child, kind):
    outcomes = list(child.outcomes((kind, seed, data) for seed, data in enumerate(real_files(kind))))
    several_pages = ("TIFF with 2 pictures; a file with one field of view is needed",)
    assert [outcome for outcome in outcomes if outcome.failure or outcome.reasons not in ((), several_pages)] == []


@settings(max_examples=30)
@given(st.sampled_from(KINDS), st.integers(0, 2**64))
def test_a_mutation_is_a_function_of_its_kind_and_seed(kind, seed):
    assert mutate(kind, seed) == mutate(kind, seed)


def test_memory_that_ran_out_is_not_taken_for_a_broken_file(monkeypatch):
    def starve(data, max_megapixels, view):
        try:
            bytearray(2**50)
        except MemoryError as error:
            raise MicrographError("truncated or corrupt PNG") from error

    monkeypatch.setattr(readers, "decode_micrograph", starve)
    with pytest.raises(MemoryError):
        readers.read_untrusted("png", real_files("png")[0])


def test_a_reader_that_breaks_the_law_is_caught_each_time_and_those_after_it_are_none_the_worse():
    deeds = (b"lock", b"fail", b"memory", b"strange", b"segfault")
    with BoundedChild(read_planted, PLANTED_HANG_S) as child:
        failures = [child.outcome("planted", 0, deed).failure for deed in deeds]
    assert failures == [
        "hung for 2 s, or exited",
        "ZeroDivisionError: no pixel",
        "MemoryError: Unable to allocate 256. MiB for an array with shape (268435456,) and data type uint8",
        None,
        "ended its process (SIGSEGV)",
    ]
