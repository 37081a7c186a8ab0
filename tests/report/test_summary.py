import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spermseg.report import summary

TEXT_DEFAULTS = dict.fromkeys(summary.TEXTS, "x")


def frame_of(*rows, limits=None):
    defaults = TEXT_DEFAULTS | dict.fromkeys(summary.FIGURES) | {"status": "ok", "member": None, "reason": None}
    filled = [
        defaults | {"image_id": str(n), "uri": f"/in/{n}.jpg", "content_sha256": str(n)} | row
        for n, row in enumerate(rows)
    ]
    part = pd.DataFrame(filled, columns=list(summary.COLUMNS))
    return summary.complete_rows([part], limits or summary.FlagLimits())[0]


rows = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["ok", "rejected"]),
        "reason": st.sampled_from([None, "empty file", "ends at byte 7", "ends at byte 12"]),
        "group": st.sampled_from([None, "a", "b", ""]),
        "content_sha256": st.sampled_from([None, "p", "q", "r"]),
        "run_id": st.sampled_from(["one", "two"]),
        "n_cells": st.none() | st.integers(0, 50),
        "n_heads": st.none() | st.integers(0, 50),
        "focus": st.none() | st.floats(0, 1e4),
    }
)


@settings(max_examples=40, deadline=None)
@given(st.lists(rows, max_size=12))
def test_groups_runs_and_rejections_each_account_for_every_row(drawn):
    frame = frame_of(*drawn)
    totals = summary.count_totals(frame, [])
    groups, runs = summary.count_groups(frame), summary.list_runs(frame, [])
    assert totals["rows"] == totals["ok"] + totals["rejected"] == len(drawn)
    assert sum(line["pictures"] for line in groups) == sum(run["rows"] for run in runs) == len(drawn)
    assert sum(line["cells"] for line in groups) == totals["cells"]
    rejected = [row["image_id"] for kind in summary.group_rejections(frame) for row in kind.rows]
    assert sorted(rejected) == sorted(frame.loc[frame["status"] != "ok", "image_id"])


@settings(max_examples=40, deadline=None)
@given(st.lists(rows, max_size=12))
def test_duplicates_are_the_measured_files_whose_pixels_another_file_has(drawn):
    found = {row["image_id"] for duplicates in summary.find_duplicates(frame_of(*drawn)) for row in duplicates.rows}
    measured = {str(n): row["content_sha256"] for n, row in enumerate(drawn) if row["status"] == "ok"}
    digests = [digest for digest in measured.values() if digest]
    assert found == {name for name, digest in measured.items() if digests.count(digest) > 1}


@pytest.mark.parametrize(
    ("uris", "root", "names"),
    [
        (["s3://b/in/p1/a.jpg", "s3://b/in/p2/a.jpg"], "s3://b/in/", ["p1/a.jpg", "p2/a.jpg"]),
        (["s3://b/in/pat1.jpg", "s3://b/in/pat2.jpg"], "s3://b/in/", ["pat1.jpg", "pat2.jpg"]),
        (["/in/a.jpg"], "/in/", ["a.jpg"]),
        (["s3://b1/a.jpg", "s3://b2/a.jpg"], "s3://", ["b1/a.jpg", "b2/a.jpg"]),
    ],
)
def test_names_start_below_the_folder_that_all_files_share(uris, root, names):
    parts = [
        pd.DataFrame([TEXT_DEFAULTS | {"uri": uri, "member": None}], columns=list(summary.COLUMNS)) for uri in uris
    ]
    frame, found = summary.complete_rows(parts, summary.FlagLimits())
    assert (found, list(frame["name"])) == (root, names)


def test_a_member_is_named_below_its_archive():
    frame = frame_of({"uri": "/in/night.zip", "member": "p1/a.jpg"}, {"uri": "/in/b.jpg"})
    assert list(frame["name"]) == ["b.jpg", "night.zip/p1/a.jpg"]


@pytest.mark.parametrize(
    ("flag", "below", "at"),
    [
        ("no cells", {"n_cells": 0}, {"n_cells": 1}),
        ("no cells", {"n_cells": 1, "n_heads": 0}, {"n_cells": 1, "n_heads": 1}),
        ("out of focus", {"focus": 24.9}, {"focus": 25}),
        ("low confidence", {"confidence": 0.69}, {"confidence": 0.7}),
        ("over- or underexposed", {"saturated_fraction": 0.06}, {"saturated_fraction": 0.05}),
        ("uneven light", {"unevenness": 0.6}, {"unevenness": 0.5}),
        ("bit depth in doubt", {"clipped_fraction": 1e-6}, {"clipped_fraction": 0.0}),
        ("same pixels as another file", {"content_sha256": "1"}, {}),
    ],
)
def test_a_flag_starts_at_its_limit(flag, below, at):
    others = [{"focus": 100}] * 4
    for row, expected in ((below, [flag]), (at, []), (below | {"status": "rejected"}, [])):
        frame = frame_of(row, *others)
        assert frame.set_index("image_id").loc["0", "flags"] == expected


def test_reasons_that_differ_in_their_numbers_alone_are_one_kind():
    reasons = ["ends at byte 7", "empty file", "ends at byte 12", "wrong size 9", None]
    kinds = summary.group_rejections(frame_of(*({"status": "rejected", "reason": reason} for reason in reasons)))
    assert [(kind.kind, len(kind.rows)) for kind in kinds] == [
        ("ends at byte …", 2),
        ("empty file", 1),
        ("no reason given", 1),
        ("wrong size 9", 1),
    ]


def test_medians_are_over_the_measured_pictures():
    frame = frame_of({"n_cells": 1}, {"n_cells": 4}, {"n_cells": 9}, {"status": "rejected"})
    (line,) = summary.count_groups(frame)
    assert (line["pictures"], line["ok"], line["rejected"], line["cells_median"]) == (4, 3, 1, 4)
    assert math.isnan(line["focus_lowest"])


def test_cells_are_counted_by_their_heads_where_those_are_known():
    frame = frame_of({"n_cells": 9, "n_heads": 6}, {"n_cells": 4}, {"n_cells": 3, "n_heads": 0}, {"status": "rejected"})
    (line,) = summary.count_groups(frame)
    assert (line["cells"], line["cells_median"]) == (10, 4)
    assert summary.count_totals(frame, [])["cells"] == 10


def test_the_times_of_an_archive_span_its_runs_whatever_their_zones():
    receipts = [
        {"run_id": "a", "started": "2026-03-01T23:30:00+02:00", "ended": "2026-03-01T23:40:00+02:00"},
        {"run_id": "b", "started": "2026-03-01T22:00:00", "ended": "not a time"},
    ]
    totals = summary.count_totals(frame_of(), receipts)
    assert f"{totals['started']:%H:%M} {totals['ended']:%H:%M}" == "21:30 21:40"
    assert [run["run_id"] for run in summary.list_runs(frame_of(), receipts)] == ["a", "b"]


def test_uploads_without_a_group_share_a_line_that_says_so():
    lines = summary.count_groups(frame_of({"group": None}, {"group": None}, {"group": "a"}))
    assert [(line["group"], line["pictures"]) for line in lines] == [(summary.NO_GROUP, 2), ("a", 1)]
