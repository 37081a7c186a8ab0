"""Three rounds of `benchmarks/trust/chaos.py`, others every day, and what compares tables. `make chaos` plays 100."""

import json
import subprocess
import sys
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.chaos_night import OF_ITS_RUN, compare, uploads

from spermseg.table.results import SCHEMA

CHAOS = Path(__file__).parents[1] / "benchmarks/trust/chaos.py"
FAULTS = {"worker killed", "model's process killed", "node removed", "command killed", "storage fault burst"}
ROUNDS = 3
PROMISED = {"lost": 0, "duplicated": 0, "differing": 0, "did_not_end": 0, "too_late": 0}

rows = st.lists(st.integers(0, 30), unique=True, min_size=1).map(
    lambda ids: [{"image_id": str(number), "run_id": "calm", "confidence": number / 3, "mask": "x"} for number in ids]
)


@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_nights_that_are_broken_into_give_the_table_of_a_calm_one():
    seed = ROUNDS * (datetime.now(UTC) - datetime(2026, 1, 1, tzinfo=UTC)).days  # in five days all faults come thrice
    words = [sys.executable, str(CHAOS), "--rounds", str(ROUNDS), "--seed", str(seed), "--pictures", "60", "--forked"]
    print(*words)  # to play them again
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {name: figures[name] for name in PROMISED} == PROMISED, done.stdout
    assert sum(figures["kills"].values()) == ROUNDS
    assert figures["kills"].keys() <= FAULTS
    assert figures["rows"] >= 60


def test_one_upload_in_ten_is_broken_and_no_two_pictures_are_alike():
    files = dict(uploads(300))
    broken = [name for name in files if name.startswith("broken/")]
    assert len(broken) == 30
    assert {name.rpartition(".")[2] for name in files if name.startswith("courier/")} == {"zip", "tar", "tgz"}
    whole = [data for name, data in files.items() if name.startswith("patient-")]
    assert len(set(whole)) == len(whole) == 135
    assert dict(uploads(300)) == files


@given(rows, st.randoms())
def test_tables_are_equal_in_any_order_and_whatever_their_run_and_times(calm, dice):
    other = [row | dict.fromkeys(OF_ITS_RUN, "other") for row in calm]
    dice.shuffle(other)
    assert not compare(calm, other)


@given(rows, st.data())
def test_a_row_that_is_lost_doubled_changed_or_unknown_is_counted(calm, data):
    number = data.draw(st.integers(0, len(calm) - 1))
    row = calm[number]
    rest = calm[:number] + calm[number + 1 :]
    assert astuple(compare(calm, rest)) == (1, 0, 0)
    assert astuple(compare(calm, [*calm, row])) == (0, 1, 0)
    assert astuple(compare(calm, [*rest, row | {"confidence": row["confidence"] + 1e-9}])) == (0, 0, 1)
    assert astuple(compare(calm, [*calm, row | {"image_id": "unknown"}])) == (0, 0, 1)


def test_every_column_is_compared_but_those_of_the_run_and_times():
    assert {name for name in SCHEMA.names if name.endswith("_ms")} | {"run_id"} == OF_ITS_RUN
