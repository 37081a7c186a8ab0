"""Variants: what they do to a picture they do to its mask, and the same seed gives the same."""

import numpy as np
import pytest

from spermseg.errors import ConfigError
from spermseg.training.data.augment import Augmentation, check_expansion
from spermseg.training.data.coverage import FULL, UNKNOWN

SIZE = 64


@pytest.fixture
def picture_and_mask():
    """A picture whose red channel is its mask, so that both can be compared after any geometry."""
    rng = np.random.default_rng(0)
    mask = np.zeros((SIZE, SIZE, 1), np.uint8)
    mask[10:40, 20:35] = 1
    mask[45:60, 5:30] = 1
    pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    pixels[..., 0] = mask[..., 0] * 255
    return pixels, mask


@pytest.mark.parametrize("variant", range(6))
def test_a_paper_variant_moves_the_mask_with_the_picture(picture_and_mask, variant):
    pixels, mask = Augmentation("paper", SIZE).variant(*picture_and_mask, variant, seed=3)
    assert pixels.shape == (SIZE, SIZE, 3)
    assert mask.shape == (SIZE, SIZE, 1)
    assert set(np.unique(mask)) <= {0, 1}
    agreement = ((pixels[..., 0] > 127) == (mask[..., 0] == 1)).mean()
    assert agreement > 0.97  # linear against nearest sampling differ at edges only


def test_variant_0_is_the_picture_itself_and_the_five_others_are_not(picture_and_mask):
    paper = Augmentation("paper", SIZE)
    changed = [paper.variant(*picture_and_mask, v, seed=1)[0] for v in range(6)]
    assert np.array_equal(changed[0], picture_and_mask[0])
    assert np.array_equal(changed[4], picture_and_mask[0][:, ::-1])
    assert np.array_equal(changed[5], picture_and_mask[0][::-1])
    assert all(not np.array_equal(one, picture_and_mask[0]) for one in (changed[1], changed[3]))


@pytest.mark.parametrize("name", ["paper", "symmetries", "clinic"])
def test_the_same_seed_gives_the_same_variant_and_seeds_differ(picture_and_mask, name):
    for variant in (2, 3):
        draws = [Augmentation(name, SIZE).variant(*picture_and_mask, variant, seed)[0] for seed in range(12)]
        again = [Augmentation(name, SIZE).variant(*picture_and_mask, variant, seed)[0] for seed in range(12)]
        assert all(np.array_equal(a, b) for a, b in zip(draws, again, strict=True))
        assert any(not np.array_equal(draws[0], other) for other in draws[1:])


def test_a_variant_does_not_depend_on_those_drawn_before_it(picture_and_mask):
    one, other = Augmentation("clinic", SIZE), Augmentation("clinic", SIZE)
    other.variant(*picture_and_mask, 1, seed=99)
    assert np.array_equal(one.variant(*picture_and_mask, 1, 5)[0], other.variant(*picture_and_mask, 1, 5)[0])


def test_symmetries_are_the_eight_of_a_square_and_nothing_else(picture_and_mask):
    pixels, mask = picture_and_mask
    turned = [np.rot90(one, times) for one in (pixels, pixels[::-1]) for times in range(4)]
    augmentation = Augmentation("symmetries", SIZE)
    drawn = [augmentation.variant(pixels, mask, 0, seed) for seed in range(60)]
    seen = {next(n for n, one in enumerate(turned) if np.array_equal(one, found)) for found, _ in drawn}
    assert seen == set(range(8))
    assert all(np.array_equal(found[..., 0], 255 * moved[..., 0]) for found, moved in drawn)


def test_several_classes_keep_their_channels(picture_and_mask):
    pixels, mask = picture_and_mask
    two = np.concatenate([mask, 1 - mask], axis=-1)
    _, changed = Augmentation("paper", SIZE).variant(pixels, two, 4, seed=0)
    assert np.array_equal(changed, two[:, ::-1])


def test_the_cover_of_a_turned_picture_has_more_than_the_two_amounts_it_had():
    y, x = np.mgrid[:SIZE, :SIZE]
    coverage = np.where(np.abs(y - x) < 2, np.uint8(FULL), np.uint8(0))[..., np.newaxis]
    smooth = 0
    for seed in range(40):
        _, moved = Augmentation("clinic", SIZE).variant(np.repeat(coverage, 3, -1), coverage, 0, seed)
        assert not (moved == UNKNOWN).any()
        smooth += len(np.unique(moved)) > 10
    assert 10 <= smooth <= 30  # half of the variants are turned by some angle


def test_what_is_unknown_stays_so_and_is_not_averaged_with_what_is_known():
    coverage = np.zeros((SIZE, SIZE, 2), np.uint8)
    coverage[20:40, :, 0] = UNKNOWN
    coverage[20:40, :, 1] = FULL
    pixels = np.repeat(coverage[..., 1:], 3, -1)
    for seed in range(20):
        _, moved = Augmentation("clinic", SIZE).variant(pixels, coverage, 0, seed)
        assert set(np.unique(moved[..., 0])) == {0, UNKNOWN}
        assert np.array_equal(moved[..., 0] == UNKNOWN, moved[..., 1] > 0)


@pytest.mark.parametrize(("name", "expansion"), [("none", 6), ("paper", 0), ("clinic", -1)])
def test_an_expansion_that_cannot_be_given_is_refused(name, expansion):
    with pytest.raises(ConfigError, match=f"expansion {expansion}"):
        check_expansion(name, expansion)


def test_faint_stain_is_never_lost_in_the_light():
    """What saturates is white, and a tail that is annotated there would be learned as one that nobody sees."""
    pixels, mask = np.full((SIZE, SIZE, 3), 244, np.uint8), np.zeros((SIZE, SIZE, 1), np.uint8)
    pixels[:, 20:44], mask[:, 20:44] = 230, 1
    clinic = Augmentation("clinic", SIZE)
    for seed in range(100):
        varied, tail = clinic.variant(pixels, mask, 0, seed)
        assert varied[tail[..., 0] == 0].mean() - varied[tail[..., 0] == 1].mean() > 6
