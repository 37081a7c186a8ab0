from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dark_cells import (
    CELLS,
    HALF,
    PREDICT,
    VIEW,
    darkness_model,
    draw,
    picture,
    sha256,
)

from spermseg.batch.worker.fetch import Fetched
from spermseg.batch.worker.segmenter import UnitSegmenter
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.cells.confidence import Confidence
from spermseg.cells.measure import decode_mask
from spermseg.micrograph.decode import decode_micrograph
from spermseg.micrograph.quality import measure_quality
from spermseg.micrograph.tiling import resize
from spermseg.model.saved import decode_model
from spermseg.model.unet import UNet
from spermseg.table.plan import GONE, Planned
from spermseg.table.results import OK, REJECTED, SCHEMA, encode_unit, results_table

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


SAVED = decode_model(darkness_model())


def segmenter(*, saved=SAVED, settings=SETTINGS, windows=4, threads=2, **how) -> UnitSegmenter:
    config = replace(PREDICT, batch_megapixels=windows * 64**2 / 1e6)
    return UnitSegmenter(saved, settings, config, run_id="night-1", threads=threads, **how)


SEGMENTER = segmenter()


def planned(number: int, **changes) -> Planned:
    return Planned(image_id=f"{number:032x}", uri=f"/uploads/{number}", size=1, data_size=1, etag="e", **changes)


def segment(kinds: list[str], by: UnitSegmenter = SEGMENTER) -> list[dict]:
    """Segment a unit of uploads of these kinds; `gone` is one that could not be fetched."""
    fetched = [Fetched(reason=GONE) if kind == "gone" else Fetched(data=UPLOADS[kind]) for kind in kinds]
    return by.segment([planned(number) for number in range(len(kinds))], fetched)


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
def test_batch_size_and_threads_change_no_row(kinds, windows, threads):
    other = segment(kinds, segmenter(windows=windows, threads=threads))
    expected = segment(kinds)
    for row in (*other, *expected):
        for name in TIMES:
            row.pop(name, None)
    assert other == expected


def test_the_mask_and_the_cells_are_those_that_were_made():
    (row,) = segment(["three cells"])
    pixels, mask = draw(3)
    assert (row["height_px"], row["width_px"]) == mask.shape
    np.testing.assert_array_equal(decode_mask(row["mask"], mask.shape), mask)
    assert sum(cell["area"] for cell in row["cells"]) == mask.sum()
    assert row["foreground_fraction"] == pytest.approx(mask.mean())
    assert row["confidence"] > 0.99  # unfitted: the stability of masks that are sharp
    figures = measure_quality(resize(pixels, (pixels.shape[0] // 2, pixels.shape[1] // 2)))
    assert {name: row[name] for name in asdict(figures)} == asdict(figures)
    assert row.keys() == set(SCHEMA.names) - {"bits", "clipped_fraction"}  # which a picture of 8 bits does not have
    assert all(row[name] >= 0 for name in TIMES)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_the_row_of_a_picture_is_native_however_small_it_was_decoded(suffix):
    decoded = []

    def noting(data, **how):
        decoded.append(decode_micrograph(data, **how))
        return decoded[-1]

    by = segmenter(settings=replace(SETTINGS, view=HALF), decode=noting)
    (row,) = by.segment([planned(0)], [Fetched(data=picture(4, suffix))])
    assert [one.reduction for one in decoded] == [2 if suffix == ".jpg" else 1]
    truth = draw(4)[1]
    assert (row["height_px"], row["width_px"]) == truth.shape
    found = decode_mask(row["mask"], truth.shape).astype(bool)
    assert (found & truth).sum() / (found | truth).sum() > 0.9
    assert row["n_cells"] == 4
    assert max(cell["x"] + cell["width"] for cell in row["cells"]) > truth.shape[1] / 2


def test_the_confidence_is_what_the_model_expects_of_its_mask():
    fitted = Confidence(slope=0.4, offset=0.5)
    saved = replace(SAVED, description=replace(SAVED.description, confidence=fitted))
    rows = segment(["three cells", "no cell", "empty"], segmenter(saved=saved))
    assert [row["confidence"] for row in rows[:2]] == [pytest.approx(0.9, abs=0.01), 0.9]
    assert "confidence" not in rows[2]


def test_where_cells_need_heads_the_others_are_in_neither_mask_nor_count():
    config = replace(SAVED.network.config, classes=("cell", "head"))
    weights = SAVED.network.state_dict()
    weights["head.weight"] = weights["head.weight"].repeat(2, 1, 1, 1)
    weights["head.bias"] = torch.tensor([-5.0, -10.0])  # a head is darker than the rest of a cell
    network = UNet(config).eval()
    network.load_state_dict(weights)
    saved = replace(SAVED, network=network)
    pixels, _ = draw(1)
    cv2.circle(pixels, (16, 24), 11, pixels[24, 16].tolist(), -1)  # large enough for a head
    pixels[60:64, 20:120] = (110, 70, 130)  # a loose tail
    data = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    rows = [
        segmenter(saved=saved, settings=replace(SETTINGS, cells=cells)).segment([planned(0)], [Fetched(data=data)])[0]
        for cells in (CELLS, replace(CELLS, require_head=True), replace(CELLS, require_head=True, min_area=1000))
    ]
    assert [(row["n_cells"], row["n_heads"]) for row in rows] == [(2, None), (1, 1), (0, 0)]
    masks = [decode_mask(row["mask"], pixels.shape[:2]) for row in rows]
    assert (masks[0] & ~masks[1]).sum() == pytest.approx(400, abs=40)
    assert not masks[1][58:66].any()


def test_the_pixel_size_of_the_settings_gives_areas_in_square_micrometres():
    (row,) = segment(["one cell"], segmenter(settings=replace(SETTINGS, um_per_px=0.5)))
    assert row["um_per_px"] == 0.5
    assert row["cells"][0]["area_um2"] == row["cells"][0]["area"] / 4


@pytest.mark.parametrize("error", [ZeroDivisionError("in the decoder"), ValueError("byte \udce9\ud800")])
def test_whatever_a_picture_does_to_its_decoder_is_its_own_row(error):
    decode = decode_micrograph

    def poisoned(data, *, max_megapixels, view):
        if data == UPLOADS["one cell"]:
            raise error
        return decode(data, max_megapixels=max_megapixels, view=view)

    rows = segment(["three cells", "one cell", "three cells"], segmenter(decode=poisoned))
    assert [row["status"] for row in rows] == [OK, REJECTED, OK]
    assert rows[1]["reason"].startswith(f"the decoder failed: {type(error).__name__}")
    assert encode_unit(results_table(rows))


def test_memory_that_runs_out_is_not_the_fault_of_the_picture_that_saw_it():
    def starved(data, *, max_megapixels, view):
        raise MemoryError

    with pytest.raises(MemoryError):
        segment(["three cells"], segmenter(decode=starved))
