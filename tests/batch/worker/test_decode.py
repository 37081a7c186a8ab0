"""Decoded micrographs: their pixels are taken once, and they travel between processes as they are."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dark_cells import CELLS, HALF, VIEW, picture

from spermseg.batch.worker.decode import Decoded, Decoder, Provenance
from spermseg.batch.worker.fetch import Fetched
from spermseg.batch.worker.messages import pack_decoded, unpack_decoded
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.micrograph.decode import decode_micrograph
from spermseg.table.plan import Planned
from spermseg.table.results import OK

ONE = Planned(image_id="1", uri="/1.png", size=1, data_size=1, etag="e")
PROVENANCE = Provenance(run_id="night-1", model_sha256="m", recipe_sha256="r", um_per_px=None)


def decoder(view=VIEW) -> Decoder:
    settings = SegmentSettings(view=view, cells=CELLS, max_megapixels=1.0)
    return Decoder(provenance=PROVENANCE, settings=settings, read=decode_micrograph)


@given(st.lists(st.sampled_from(["good", "broken", "gone"]), max_size=6), st.sampled_from([VIEW, HALF]))
def test_what_travels_arrives_as_it_was(kinds, view):
    fetched = {
        "good": Fetched(data=picture(3)),
        "broken": Fetched(data=picture(3)[:200]),
        "gone": Fetched(reason="not found"),
    }
    sent = [decoder(view).decode(ONE, fetched[kind]) for kind in kinds]
    pixels = [None if one.pixels is None else one.pixels.copy() for one in sent]
    arrived = list(unpack_decoded([pack_decoded(one) for one in sent]))
    assert [one.row for one in arrived] == [one.row for one in sent]
    for one, expected in zip(arrived, pixels, strict=True):
        assert (one.pixels is None) == (expected is None)
        if expected is not None:
            assert np.array_equal(one.pixels, expected)
            assert one.pixels.shape[:2] == view.working_shape(one.native_shape)


def test_pixels_are_taken_once():
    one = decoder().decode(ONE, Fetched(data=picture(1)))
    assert one.take_pixels().shape == (96, 160, 3)
    assert one.pixels is None
    with pytest.raises(ValueError, match="they were taken before"):
        one.take_pixels()
    with pytest.raises(ValueError, match="micrograph 1 has no pixels"):
        Decoded(row={"image_id": "1"}).take_pixels()


def test_the_row_tells_which_bits_of_16_were_taken_and_what_was_cut():
    drawn = np.full((40, 60), 3000, np.uint16)
    drawn[30:33, 5:25] = 65535
    wide, narrow = (cv2.imencode(".png", one)[1].tobytes() for one in (drawn, np.zeros((40, 60), np.uint8)))
    row = decoder().decode(ONE, Fetched(data=wide)).row
    assert (row["bits"], row["clipped_fraction"]) == (12, 60 / 2400)
    row = decoder().decode(ONE, Fetched(data=narrow)).row
    assert row["status"] == OK
    assert "bits" not in row


def test_the_stages_before_the_network_do_without_pytorch():
    said = "import sys, spermseg.batch.worker.messages; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout == "False\n"
