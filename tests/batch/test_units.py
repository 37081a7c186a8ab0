import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from dark_cells import (
    CELLS,
    EXPECTED,
    VIEW,
    darkness_model,
    draw,
    name_of,
    picture,
    sha256,
    tar_of,
    write_uploads,
    zip_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from spermseg.batch import units
from spermseg.batch.plan import CHANGED, GONE, Identity, Planned, list_uploads
from spermseg.batch.results import OK, REJECTED, SCHEMA, encode_unit, results_table
from spermseg.batch.settings import SegmentSettings
from spermseg.batch.units import LARGEST_FILE, Fetched, UnitSegmenter, fetch
from spermseg.cells.measure import decode_mask
from spermseg.errors import StorageError
from spermseg.model.predict import PredictConfig
from spermseg.model.saved import decode_model
from spermseg.storage.filesystem import Location

SETTINGS = SegmentSettings(view=VIEW, cells=CELLS, max_megapixels=1.0)
TIMES = ("decode_ms", "predict_ms", "measure_ms")
UPLOADS = {
    "three cells": picture(3),
    "one cell": picture(1, ".bmp"),
    "no cell": picture(0, ".tif"),
    "cut off": picture(2)[:-200],
    "empty": b"",
    "not a picture": b"dear colleague",
}
CELLS_SHOWN = {"three cells": 3, "one cell": 1, "no cell": 0}


def segmenter(*, settings=SETTINGS, batch_size=4, threads=2) -> UnitSegmenter:
    saved = decode_model(darkness_model())
    return UnitSegmenter(saved, settings, PredictConfig(batch_size=batch_size), run_id="night-1", threads=threads)


SEGMENTER = segmenter()


def planned(number: int, **changes) -> Planned:
    return Planned(image_id=f"{number:032x}", uri=f"/uploads/{number}", size=1, data_size=1, etag="e", **changes)


def segment(kinds: list[str], by: UnitSegmenter = SEGMENTER) -> list[dict]:
    """Segment a unit of uploads of these kinds; `gone` is one that could not be fetched."""
    fetched = [Fetched(reason=GONE) if kind == "gone" else Fetched(data=UPLOADS[kind]) for kind in kinds]
    return by.segment([planned(number) for number in range(len(kinds))], fetched)


def only(source: Location) -> Planned:
    (one,) = list_uploads(source, Identity(model_sha256="m", settings_sha256="s"))
    return one


@given(st.lists(st.sampled_from([*UPLOADS, "gone"]), max_size=12))
@settings(max_examples=25, deadline=None)
def test_every_upload_has_one_row_in_its_place_however_good_and_broken_ones_alternate(kinds):
    rows = segment(kinds)
    assert [row["image_id"] for row in rows] == [f"{number:032x}" for number in range(len(kinds))]
    for kind, row in zip(kinds, rows, strict=True):
        assert row["status"] == (OK if kind in CELLS_SHOWN else REJECTED)
        assert row.get("n_cells") == CELLS_SHOWN.get(kind)
        assert (row["reason"] is None) == (kind in CELLS_SHOWN)
        assert row.get("content_sha256") == (None if kind == "gone" else sha256(UPLOADS[kind]))
    assert results_table(rows).num_rows == len(kinds)


@given(st.lists(st.sampled_from(list(UPLOADS)), max_size=8), st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_batch_size_and_threads_change_no_row(kinds, batch_size, threads):
    other = segment(kinds, segmenter(batch_size=batch_size, threads=threads))
    expected = segment(kinds)
    for row in (*other, *expected):
        for name in TIMES:
            row.pop(name, None)
    assert other == expected


def test_the_mask_and_the_cells_are_those_that_were_drawn():
    (row,) = segment(["three cells"])
    pixels, mask = draw(3)
    assert (row["height_px"], row["width_px"]) == mask.shape
    np.testing.assert_array_equal(decode_mask(row["mask"], mask.shape), mask)
    assert sum(cell["area"] for cell in row["cells"]) == mask.sum()
    assert row["foreground_fraction"] == pytest.approx(mask.mean())
    assert row["confidence"] > 0.99
    assert row["brightness"] == pytest.approx(units.measure_quality(pixels).brightness)
    assert row.keys() == set(SCHEMA.names)
    assert all(row[name] >= 0 for name in TIMES)


def test_the_pixel_size_of_the_settings_gives_areas_in_square_micrometres():
    (row,) = segment(["one cell"], segmenter(settings=replace(SETTINGS, um_per_px=0.5)))
    assert row["um_per_px"] == 0.5
    assert row["cells"][0]["area_um2"] == row["cells"][0]["area"] / 4


@pytest.mark.parametrize("error", [ZeroDivisionError("in the decoder"), MemoryError(), ValueError("byte \udce9\ud800")])
def test_whatever_a_picture_does_to_its_decoder_is_its_own_row(monkeypatch, error):
    decode = units.decode_micrograph

    def poisoned(data, *, max_megapixels):
        if data == UPLOADS["one cell"]:
            raise error
        return decode(data, max_megapixels=max_megapixels)

    monkeypatch.setattr(units, "decode_micrograph", poisoned)
    rows = segment(["three cells", "one cell", "three cells"])
    assert [row["status"] for row in rows] == [OK, REJECTED, OK]
    assert rows[1]["reason"].startswith(f"the decoder failed: {type(error).__name__}")
    assert encode_unit(results_table(rows))


def test_every_packing_is_fetched_to_the_bytes_that_were_uploaded_on_every_storage(place):
    write_uploads(place)
    for one in list_uploads(place, Identity(model_sha256="m", settings_sha256="s")):
        name = name_of(vars(one), place)
        if name in EXPECTED:
            assert fetch(one, place.endpoint_url) == Fetched(data=picture(EXPECTED[name], name[-4:])), name


def test_an_upload_that_changed_or_went_since_it_was_planned_is_rejected_on_every_storage(place):
    upload = place.child("a.png")
    upload.write_bytes(picture(1))
    one = only(place)
    upload.write_bytes(picture(2))
    assert fetch(one, place.endpoint_url) == Fetched(reason=CHANGED)
    assert fetch(replace(one, uri=place.child("b.png").uri), place.endpoint_url) == Fetched(reason=GONE)


def test_a_member_whose_checksum_is_wrong_is_rejected(tmp_path):
    source = Location(str(tmp_path / "a.zip"))
    source.write_bytes(zip_of([("a.png", picture(1))]).replace(b"\x89PNG", b"\x88PNG", 1))
    assert (fetch(only(source), None).reason or "").startswith("its checksum is")


def test_what_is_planned_as_rejected_or_too_large_is_never_read(monkeypatch):
    monkeypatch.setattr(Location, "read_range", None)
    assert fetch(planned(1, reason="encrypted"), None) == Fetched(reason="encrypted")
    for size in ({"size": LARGEST_FILE + 1}, {"data_size": LARGEST_FILE + 1}):
        reason = fetch(replace(planned(1), **size), None).reason
        assert reason == f"the file has {LARGEST_FILE + 1} bytes; at most {LARGEST_FILE} are read"


def test_a_storage_that_fails_says_nothing_of_the_upload(monkeypatch):
    def refuse(self, *where, etag):
        raise StorageError("s3://clinic/a.png: access denied (ExpiredToken)")

    monkeypatch.setattr(Location, "read_range", refuse)
    with pytest.raises(StorageError, match="access denied"):
        fetch(planned(1), None)


def test_a_tar_member_holds_no_more_than_its_own_bytes(tmp_path):
    source = Location(str(tmp_path / "a.tar"))
    source.write_bytes(tar_of([("a.png", b"abc")]))
    assert fetch(only(source), None).data == b"abc"


@given(st.lists(st.integers(), max_size=30), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_mapping_ahead_keeps_the_order_and_never_more_than_it_may(items, ahead):
    begun, taken, most = 0, 0, 0
    lock = threading.Lock()

    def work(item):
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun - taken)
        return item

    found = []
    with ThreadPoolExecutor(3) as pool:
        for item in units._map_ahead(pool, work, items, ahead):
            found.append(item)
            with lock:
                taken += 1
            time.sleep(0)
    assert found == items
    assert most <= ahead
