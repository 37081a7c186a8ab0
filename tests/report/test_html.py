import base64
import hashlib
import html as html_escapes
import re
import time
import tracemalloc
from html.parser import HTMLParser

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from spermseg.errors import ConfigError, StorageError
from spermseg.report.figures import OUTLINE
from spermseg.report.html import ReportConfig, render_report
from spermseg.table.results import results_table

HEIGHT, WIDTH = 96, 128


def draw_micrograph(seed, height=HEIGHT, width=WIDTH):
    """Return a pale picture with a few dark ellipses, and their exact mask."""
    random = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), (225, 222, 236), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(random.integers(1, 6)):
        centre = (int(random.integers(10, width - 10)), int(random.integers(10, height - 10)))
        for picture, colour in ((pixels, (70, 20, 130)), (mask, 1)):
            cv2.ellipse(picture, centre, (9, 6), 0, 0, 360, colour, -1)
    return pixels, mask.astype(bool)


def encode_mask(mask):
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def result_row(number, **changes):
    row = {
        "image_id": f"{number:064x}",
        "uri": f"s3://clinic/uploads/patient-{number % 7}/{number:05}.jpg",
        "content_sha256": f"{number + 10**9:064x}",
        "group": f"patient-{number % 7}",
        "run_id": "run-1",
        "model_sha256": "ab" * 32,
        "recipe_sha256": "cd" * 32,
        "version": "0.1.0",
        "status": "ok",
        "width_px": WIDTH,
        "height_px": HEIGHT,
        "focus": 100.0 + number % 13,
        "brightness": 200.0,
        "saturated_fraction": 0.0,
        "unevenness": 0.1,
        "foreground_fraction": 0.02 + number % 11 / 1000,
        "confidence": 0.95,
        "mask": encode_mask(draw_micrograph(number)[1]),
        "n_cells": number % 9 + 1,
        "cells": [],
    }
    return row | changes


def rejected_row(number, reason, **changes):
    measured = ("width_px", "height_px", "focus", "brightness", "saturated_fraction", "unevenness", "mask")
    empty = dict.fromkeys((*measured, "foreground_fraction", "confidence", "n_cells", "cells"))
    return result_row(number, **empty, status="rejected", reason=reason, **changes)


def receipt_for(rows, **changes):
    ok = sum(row["status"] == "ok" for row in rows)
    receipt = {"run_id": "run-1", "planned": len(rows), "ok": ok, "rejected": len(rows) - ok}
    times = {
        "started": "2026-03-01T22:00:00+00:00",
        "ended": "2026-03-01T22:01:30+00:00",
        "duration_s": 90.0,
        "megapixels": 1.5,
    }
    return receipt | times | changes


def read_drawn(uri, member, content_sha256):
    return draw_micrograph(int(re.search(r"(\d+)\.jpg", uri)[1]))[0]


def render(rows, receipts=None, read_pixels=read_drawn, unfinished=(), **config):
    receipts = [receipt_for(rows)] if receipts is None else receipts
    return render_report([results_table(rows)], receipts, read_pixels, ReportConfig(**config), unfinished)


class _Page(HTMLParser):
    """Collects the tags, attributes and text of a page as a browser would see them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.handlers, self.text, self.skip = [], [], [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.skip = tag in ("script", "style")
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag):
        self.skip = False

    def handle_data(self, data):
        self.text += "" if self.skip else data


HOSTILE = [
    "<script>alert(1)</script>.jpg",
    '"><img src=x onerror=alert(1)>',
    "'; {{ 7*7 }} {% raw %} </script>",
]


@settings(max_examples=25, deadline=None)
@given(name=st.text(max_size=30).filter(lambda text: "\0" not in text) | st.sampled_from(HOSTILE))
def test_no_name_changes_the_structure_of_the_page(name):
    def page(text):
        ok = result_row(1, uri=f"/in/{text}", member=text or None, group=text, run_id=text)
        bad = rejected_row(2, f"cannot read {text}", uri=f"/in/x/{text}", group=text, run_id=text)
        return _Page(render([ok, bad], [receipt_for([ok, bad], run_id=text)], pictures=0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spermseg.report.html.histogram_figure", lambda values, label: b"")  # slow, and without names
        plain, hostile = page("a"), page(name)
    assert hostile.tags == plain.tags
    assert hostile.handlers == []


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_as_text(name):
    rows = [result_row(1, uri=f"/in/{name}", group=name), rejected_row(2, name, uri="/in/2.jpg")]

    def refuse(*_):
        raise StorageError(f"{name} is gone")

    page = render(rows, read_pixels=refuse)
    assert html_escapes.escape(name) in page.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    assert name in _Page(page).text
    assert f"{name} is gone" in _Page(page).text


@pytest.mark.parametrize("hidden", ["\u202e", "\x1b[2J", "\x00", "\u2066", "\n", "\x9b"])
def test_what_has_no_shape_is_shown_as_an_escape_wherever_a_name_stands(hidden):
    name = f"{hidden}gnp.exe"
    rows = [result_row(1, uri=f"/in/{name}", group=name, run_id=name), rejected_row(2, f"no {name}", uri=f"/x/{name}")]

    def refuse(*_):
        raise StorageError(f"{name} is gone")

    page = render(rows, read_pixels=refuse, title=name)
    text = _Page(page).text
    shown = hidden.encode("unicode_escape").decode()
    assert hidden == "\n" or hidden not in page
    assert text.count(f"{shown}gnp.exe") >= 6
    assert f"<title>{shown}gnp.exe</title>" in page


def test_the_page_loads_nothing_from_outside():
    page = _Page(render([result_row(number) for number in range(9)]))
    assert page.links
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)


def test_the_policy_names_the_only_script():
    page = render([result_row(1)])
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in page or f"script-src 'sha256-{digest}'" in page
    assert page.count("<script") == 1


def test_an_archive_that_adds_up_is_called_complete():
    rows = [result_row(number) for number in range(10)] + [rejected_row(10, "empty file")]
    text = _Page(render(rows, pictures=0)).text
    assert "Every planned upload has exactly one row: 11 planned = 10 measured + 1 rejected" in text
    assert "does not add up" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planned": 5}, "Run run-1: its receipt says planned 5, its rows say 3."),
        ({"ok": 1}, "Run run-1: its receipt says ok 1, its rows say 3."),
        ({"rejected": 1}, "Run run-1: its receipt says rejected 1, its rows say 0."),
        ({"run_id": "run-2"}, "rows and no receipt: it has not finished"),
    ],
)
def test_an_archive_that_does_not_add_up_says_why(change, message):
    rows = [result_row(number) for number in range(3)]
    text = _Page(render(rows, [receipt_for(rows, **change)], pictures=0)).text
    assert "does not add up" in text
    assert message in text
    assert "Complete." not in text


def test_two_rows_for_one_upload_are_a_problem():
    rows = [result_row(1), result_row(1)]
    assert "repeat an upload which has a row already: 1." in _Page(render(rows, pictures=0)).text


def test_pictures_that_cannot_be_read_show_the_reason_in_their_place():
    def gone(*_):
        raise StorageError("clinic/1.jpg is not there")

    page = render([result_row(1)], read_pixels=gone)
    assert "clinic/1.jpg is not there" in page
    assert "data:image/jpeg" not in page


def test_an_upload_that_changed_its_size_is_not_drawn():
    page = render([result_row(1)], read_pixels=lambda *_: np.zeros((50, 60, 3), np.uint8))
    assert "60 x 50 px by now; it was 128 x 96 px" in page


def test_a_damaged_mask_is_not_drawn():
    assert "the mask in the results cannot be decoded" in render([result_row(1, mask="!!")])


def test_the_gallery_draws_the_outline_of_the_mask():
    page = render([result_row(4)], pictures=1)
    data = re.search(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page)[1]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    near = np.abs(picture.astype(int) - OUTLINE).sum(axis=2) < 120
    assert near.sum() > 20
    assert not np.abs(read_drawn("4.jpg", None, "").astype(int) - OUTLINE).sum(axis=2).min() < 120


def _shelf(page, title):
    part = page.split(f"<h3>{title}</h3>")[1].split("<h3>")[0].split("<h2")[0]
    return [int(number) for number in re.findall(r'class="name"><bdi>[^<]*?(\d+)\.jpg', part)]


def test_shelves_show_the_extremes_however_the_rows_are_split_into_tables():
    rows = [
        result_row(n, n_cells=n * 7 % 40, focus=float(n * 11 % 40), confidence=(n * 13 % 40) / 40) for n in range(40)
    ]
    whole = render(rows, pictures=3)
    batches = [results_table(rows[start : start + 7]).to_batches()[0] for start in range(0, 40, 7)]
    split = render_report(batches, [receipt_for(rows)], read_drawn, ReportConfig(pictures=3))
    assert split == whole
    assert _shelf(whole, "Most crowded") == sorted(range(40), key=lambda n: -(n * 7 % 40))[:3]
    assert _shelf(whole, "Least in focus") == sorted(range(40), key=lambda n: n * 11 % 40)[:3]
    assert _shelf(whole, "Lowest confidence") == sorted(range(40), key=lambda n: n * 13 % 40)[:3]


def test_cells_are_counted_by_their_heads_where_they_are_known():
    rows = [result_row(n, n_cells=n + 1, n_heads=40 - n) for n in range(5)]
    page = render(rows, pictures=2)
    assert _shelf(page, "Most crowded") == [0, 1]
    assert "40 cells &middot;" in page
    assert "<dt>Cells</dt><dd>190</dd>" in page
    assert re.search(r'<td>ok<td class="n">36<', page.split('id="all-rows"')[1])


def test_the_table_of_all_uploads_begins_with_the_least_confident_and_keeps_them_where_it_is_cut():
    rows = [result_row(n, confidence=(n * 13 % 40) / 40) for n in range(40)]
    rejected = result_row(40, status="rejected", reason="the file is empty", confidence=None)
    part = render([rejected, *rows], pictures=0, table_rows=5).split('id="all-rows"')[1]
    shown = [int(number) for number in re.findall(r"<bdi>[^<]*?(\d+)\.jpg", part)]
    assert shown == sorted(range(40), key=lambda n: n * 13 % 40)[:5]


def test_the_random_sample_depends_on_the_seed_alone():
    rows = [result_row(number) for number in range(40)]
    samples = [
        _shelf(render(order, pictures=4, seed=seed), "Random sample")
        for order, seed in ((rows, 0), (rows[::-1], 0), (rows, 1))
    ]
    assert samples[0] == samples[1] != samples[2]


def test_the_same_pixels_under_two_names_are_shown_as_a_possible_mix_up():
    rows = [result_row(1), result_row(2, content_sha256=result_row(1)["content_sha256"]), result_row(3)]
    part = render(rows, pictures=0).split('id="duplicates"')[1].split("<h2")[0]
    assert "00001.jpg" in part
    assert "00002.jpg" in part
    assert "00003.jpg" not in part
    assert "across groups" in part


def test_one_upload_segmented_by_two_models_is_no_mix_up():
    rows = [result_row(1), result_row(1, image_id="f" * 64, model_sha256="ef" * 32)]
    text = _Page(render(rows, pictures=0)).text
    assert "mix-up" not in text
    assert "More than one model" in text


def test_empty_files_that_were_rejected_are_no_mix_up():
    rows = [rejected_row(n, "empty file", content_sha256="0" * 64) for n in range(2)]
    assert "mix-up" not in _Page(render(rows, pictures=0)).text


def test_a_run_that_was_planned_and_did_nothing_is_no_complete_archive():
    text = _Page(render([result_row(1)], unfinished=["run-2"], pictures=0)).text
    assert "Run run-2 has 0 rows and no receipt: it has not finished." in text
    assert "Complete." not in text


def test_runs_that_are_left_out_because_they_have_not_finished_are_said_to_be():
    text = _Page(render([result_row(1)], unfinished=["run-2", "run-3"], pictures=0, finished_only=True)).text
    assert "Complete." in text
    assert "Left out: 2 runs that have not finished." in text
    assert "Left out" not in _Page(render([result_row(1)], pictures=0, finished_only=True)).text
    twice = [result_row(1), result_row(1)]
    text = _Page(render(twice, unfinished=["run-2"], pictures=0, finished_only=True)).text
    assert "This archive does not add up." in text
    assert "Left out: 1 run that has not finished." in text
    text = _Page(render([], [], unfinished=["run-2"], finished_only=True)).text
    assert "Nothing yet. No run has finished." in text
    assert "Left out: 1 run that has not finished." in text


def test_an_upload_that_was_replaced_and_segmented_again_is_said_to_count_twice():
    retaken = result_row(1, image_id="f" * 64, content_sha256="e" * 64, run_id="run-2")
    text = _Page(render([result_row(1), retaken, result_row(2)], pictures=0)).text
    assert "1 upload segmented again since the file, or its archive, had changed: both count." in text
    listed_twice = result_row(1, image_id="f" * 64)  # by one archive, in one run
    assert "segmented again" not in _Page(render([result_row(1), listed_twice], pictures=0)).text


def test_where_the_table_is_cut_what_is_flagged_is_kept():
    rows = [result_row(n, confidence=0.8 + n / 1000) for n in range(30)]
    flagged = result_row(30, confidence=0.99, saturated_fraction=0.5)
    part = render([*rows, flagged], pictures=0, table_rows=5).split('id="all-rows"')[1]
    shown = [int(number) for number in re.findall(r"<bdi>[^<]*?(\d+)\.jpg", part)]
    assert shown == [0, 1, 2, 3, 30]


def test_an_archive_without_rows_still_gives_a_page():
    assert "Nothing yet." in render_report([], [], read_drawn)


def test_a_night_in_which_everything_was_rejected_still_gives_a_page():
    text = _Page(render([rejected_row(n, "not an image") for n in range(3)])).text
    assert "3 \N{MULTIPLICATION SIGN} not an image" in text


def test_tables_without_a_needed_column_are_refused_by_name():
    table = results_table([result_row(1)]).drop_columns(["mask", "focus"])
    with pytest.raises(ConfigError, match="lack the columns focus, mask"):
        render_report([table], [], read_drawn)


@pytest.mark.parametrize("setting", ["pictures", "picture_width", "table_rows"])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=f"{setting}=-1"):
        ReportConfig(**{setting: -1})


def test_long_tables_say_how_much_they_show():
    page = render([result_row(n) for n in range(30)], pictures=0, table_rows=10)
    assert "The first 10 of 30 are shown" in page
    assert "00027.jpg" not in page


def test_five_thousand_rows_take_seconds_and_megabytes():
    rows = [result_row(n) for n in range(4900)] + [rejected_row(n, f"ends at byte {n}") for n in range(4900, 5000)]
    table, receipts = results_table(rows), [receipt_for(rows)]
    started = time.perf_counter()
    page = render_report([table], receipts, read_drawn, ReportConfig(pictures=0))
    assert time.perf_counter() - started < 10
    assert len(page.encode()) < 5e6
    assert page.count(".jpg</bdi>") >= 5000
    assert "ends at byte …" in page


def test_memory_does_not_grow_with_the_masks():
    rows = [result_row(n) for n in range(16)]

    def tables(count):
        for start in range(count):
            unit = [{**row, "image_id": f"{start}-{n}", "mask": "0" * 100_000} for n, row in enumerate(rows)]
            yield results_table(unit)

    before, peak = pa.total_allocated_bytes(), 0

    def watched():
        nonlocal peak
        for table in tables(30):
            peak = max(peak, pa.total_allocated_bytes() - before)
            yield table

    tracemalloc.start()
    render_report(watched(), [], lambda *_: np.zeros((1, 1, 3), np.uint8), ReportConfig(pictures=2))
    python_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6
    assert python_peak < 20e6  # the masks of all tables are 48 MB
