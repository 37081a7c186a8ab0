"""Two smears on one slide: the light that comes through both, and the cells of both."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from spermseg.errors import ConfigError
from spermseg.synthetic.draw import DrawConfig, draw_micrograph
from spermseg.training.config import TrainConfig
from spermseg.training.data.coverage import FULL, UNKNOWN, covered
from spermseg.training.data.sampling import Sampler, WorkingExample
from spermseg.training.data.superpose import superpose

SIDE = 64
tiles = npst.arrays(np.uint8, (8, 8, 3))
coverages = npst.arrays(np.uint8, (8, 8, 2))


def smear(ground: int, rows: slice) -> WorkingExample:
    """An even ground, and a band that lets half of the light through."""
    pixels = np.full((SIDE, SIDE, 3), ground, np.uint8)
    coverage = np.zeros((SIDE, SIDE, 1), np.uint8)
    pixels[rows], coverage[rows] = ground // 2, FULL
    return WorkingExample(pixels=pixels, coverage=coverage)


def test_where_two_bands_cross_a_quarter_of_the_light_comes_through():
    one, other = smear(200, np.s_[10:14]), smear(120, np.s_[12:16])
    pixels, coverage = superpose(one.pixels, one.coverage, other.pixels, other.coverage, 1.0)
    assert [int(pixels[row, 0, 0]) for row in (0, 10, 12, 14)] == [200, 100, 50, 100]
    assert np.array_equal(covered(coverage[:, 0, 0]), [10 <= row < 16 for row in range(SIDE)])


def test_a_band_that_is_faded_lets_more_light_through_and_is_a_cell_all_the_same():
    one, other = smear(200, np.s_[0:0]), smear(120, np.s_[12:16])
    pixels, coverage = superpose(one.pixels, one.coverage, other.pixels, other.coverage, 0.5)
    assert int(pixels[12, 0, 0]) == round(200 * 0.5**0.5)
    assert (coverage[12:16] == FULL).all()


@given(pixels=tiles, coverage=coverages, above=tiles, other_coverage=coverages)
def test_of_a_smear_without_density_only_the_cover_is_seen(pixels, coverage, above, other_coverage):
    above = np.maximum(above, 1)  # black lets nothing through, however thin
    seen, both = superpose(pixels, coverage, above, other_coverage, 0.0)
    assert np.array_equal(seen, pixels)
    assert np.array_equal(both == UNKNOWN, (coverage == UNKNOWN) | (other_coverage == UNKNOWN))
    assert (both >= coverage).all()


@given(pixels=tiles, coverage=coverages, above=tiles, density=st.floats(0.5, 1))
def test_an_even_smear_changes_nothing_whatever_its_light(pixels, coverage, above, density):
    even = np.broadcast_to(above[:1, :1], above.shape)
    seen, _ = superpose(pixels, coverage, np.maximum(even, 1), np.zeros_like(coverage), density)
    assert np.array_equal(seen, pixels)


def test_the_ground_of_a_micrograph_leaves_another_one_as_bright_as_it_was():
    drawn = [draw_micrograph(seed, DrawConfig(height=128, width=128, scale=0.25)).pixels for seed in (1, 2)]
    coverage = np.zeros((128, 128, 1), np.uint8)
    seen, _ = superpose(drawn[0], coverage, drawn[1], coverage, 1.0)
    assert abs(float(np.median(seen)) / float(np.median(drawn[0])) - 1) < 0.05


def batch(share: float) -> np.ndarray:
    examples = [smear(200, np.s_[4 * n : 4 * n + 2]) for n in range(8)]
    config = TrainConfig(batch_size=64, expansion=64, augment="symmetries", seed=3, superpose=share)
    return next(Sampler(examples=examples, tile=SIDE, scale=0.5, config=config).batches(0))[1]


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.3, 8, 32), (1.0, 50, 64)])
def test_so_many_tiles_have_the_cells_of_two(share, least, most):
    two_bands = sum(covered(one).sum() > 2 * SIDE for one in batch(share))  # not, where both are the same band
    assert least <= two_bands <= most


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ConfigError, match="0 to 1 is needed"):
        TrainConfig(superpose=share)
