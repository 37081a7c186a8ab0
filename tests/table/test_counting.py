import hashlib
import json
from collections import Counter

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from spermseg.table import counting
from spermseg.table.counting import Count, repeated, same_once

texts = st.text(max_size=4)
rows = st.lists(st.tuples(texts, st.sampled_from(["ok", "rejected", "maybe"]), texts), max_size=12, unique=True)


def chunked(items: list[str], at: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(part, pa.large_string()) for part in (items[:at], items[at:])])


def test_heads_are_known_where_every_picture_that_is_ok_has_their_count():
    count, row = Count(), dict.fromkeys(counting.COUNTED, "a") | {"width_px": 1, "height_px": 1, "n_cells": 9}
    for status, heads, so_far in (("rejected", None, None), ("ok", 3, 3), ("rejected", None, 3), ("ok", 0, 3)):
        told = row | {"status": status, "n_heads": heads}
        counting._count_unit(count, {name: [value] for name, value in told.items()})
        assert count.heads == so_far
    counting._count_unit(count, {name: [value] for name, value in (row | {"status": "ok", "n_heads": None}).items()})
    assert count.heads is None


@given(st.lists(rows, max_size=4), st.integers(1, 5))
def test_the_digest_of_a_table_is_as_documented_however_its_rows_lie_in_files(units, lines_at_once):
    count = Count()
    for unit in units:
        ids, statuses, digests = map(list, zip(*unit, strict=True)) if unit else ([], [], [])
        same = dict.fromkeys(("run_id", "model_sha256", "recipe_sha256"), ["a"] * len(unit))
        numbers = dict.fromkeys(("width_px", "height_px", "n_cells", "n_heads"), [1000] * len(unit))
        told = {"image_id": ids, "status": statuses, "content_sha256": digests, "reason": [None] * len(unit)}
        counting._count_unit(count, {**same, **numbers, **told})
    lines = [json.dumps(row, separators=(",", ":")) for unit in units for row in unit]
    wanted = hashlib.sha256(f"[{','.join(sorted(lines))}]".encode()).hexdigest()
    before, counting.LINES_AT_ONCE = counting.LINES_AT_ONCE, lines_at_once
    try:
        assert count.table_sha256 == wanted
    finally:
        counting.LINES_AT_ONCE = before
    all_rows = [row for unit in units for row in unit]
    assert (count.rows, count.image_ids.to_pylist()) == (len(all_rows), [row[0] for row in all_rows])
    assert count.statuses == Counter(row[1] for row in all_rows)
    assert count.cells == 1000 * count.statuses["ok"]


@given(st.lists(texts), st.integers(0, 5))
def test_texts_that_are_repeated_are_found_as_often_as_they_are(items, at):
    found = Counter(repeated(chunked(items, at)).to_pylist())
    assert found == Counter({text: number - 1 for text, number in Counter(items).items() if number > 1})


@given(st.lists(texts, max_size=5), st.lists(texts, max_size=5), st.integers(0, 5))
def test_texts_are_the_same_once_in_any_order(some, others, at):
    assert same_once(chunked(some, at), chunked(sorted(some), at)) == (len(some) == len(set(some)))
    assert same_once(chunked(some, at), chunked(others, at)) == (
        sorted(some) == sorted(others) and len(some) == len(set(some))
    )
