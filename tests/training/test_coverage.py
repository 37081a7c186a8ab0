"""How much of each pixel is cell."""

import numpy as np
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays

from spermseg.micrograph.tiling import Tiles
from spermseg.training.data.coverage import FULL, UNKNOWN, coverage_of, covered, full_coverage, target_of
from spermseg.training.losses import IGNORED

VIEW = Tiles(scale=0.5, tile=32, halo=0)


@given(arrays(bool, (20, 24)))
def test_the_cover_is_the_share_of_what_a_pixel_covers_and_half_of_it_is_in_the_mask(mask):
    share = mask.reshape(10, 2, 12, 2).mean(axis=(1, 3))
    coverage = coverage_of(mask, VIEW)
    soft, hard = (target_of(torch.from_numpy(coverage), soft=soft).numpy() for soft in (True, False))
    assert np.allclose(soft, share, atol=0.005)
    assert np.array_equal(hard, share >= 0.5)
    assert np.array_equal(covered(coverage), VIEW.working_mask(mask))


def test_what_is_unknown_is_no_cell_and_no_target():
    coverage = np.array([0, 127, 128, FULL, UNKNOWN], np.uint8)
    assert covered(coverage).tolist() == [False, False, True, True, False]
    assert target_of(torch.from_numpy(coverage), soft=False).tolist() == [0, 0, 1, 1, IGNORED]
    assert target_of(torch.from_numpy(coverage), soft=True)[-1] == IGNORED


def test_a_whole_mask_is_full():
    assert full_coverage(np.array([True, False])).tolist() == [FULL, 0]
    assert coverage_of(np.ones((8, 8), bool), VIEW).tolist() == [[FULL] * 4] * 4
