"""Every clinic at once: it varies, it can always be drawn, and its masks are a little wide where people draw wide."""

from dataclasses import replace

import numpy as np
import pytest

from spermseg.synthetic.domain import MARGINS, annotate, random_draw_config
from spermseg.synthetic.draw import draw_micrograph


def drawing(seed: int):
    return random_draw_config(np.random.default_rng(seed), 192, 256, 0.25)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_chosen_can_be_drawn_and_annotated(seed):
    config = drawing(seed)
    drawn = draw_micrograph(seed, config)
    masks = annotate(drawn, config.scale)
    assert drawn.pixels.shape == (192, 256, 3)
    assert set(masks) == {"cell", "head", "acrosome", "midpiece", "tail"}
    assert all(mask.shape == (192, 256) for mask in masks.values())
    assert np.array_equal(masks["cell"], masks["head"] | masks["midpiece"] | masks["tail"])


def test_clinics_differ_in_magnification_light_and_stain():
    configs = [drawing(seed) for seed in range(40)]
    for name, least in (("scale", 1.6), ("blur", 2), ("head_stain", 1.8), ("tail_stain", 3)):
        values = [getattr(config, name) for config in configs]
        assert max(values) / min(values) > least, name
    assert len({config.cells for config in configs}) > 5
    assert {config.round_cells for config in configs} == {(0, 0), (0, 1)}
    qualities = [config.jpeg_quality for config in configs]
    assert 10 < qualities.count(None) < 30
    assert len(set(qualities)) > 8


def test_tails_are_outlined_wider_than_they_are_painted_and_heads_are_not():
    config = replace(random_draw_config(np.random.default_rng(2), 192, 256, 0.5), cells=(5, 5), beyond=0.0)
    drawn = draw_micrograph(1, config)
    with_margin, without = annotate(drawn, config.scale, finer=4), annotate(drawn, 0.0, finer=4)
    assert np.array_equal(with_margin["head"], without["head"])
    for part in MARGINS:
        assert with_margin[part].sum() > without[part].sum() > 0
        assert (with_margin[part] >= without[part]).all()


def test_a_cell_whose_head_is_outside_is_drawn_and_not_annotated():
    config = replace(random_draw_config(np.random.default_rng(2), 192, 256, 0.5), cells=(5, 5), beyond=0.0)
    drawn = draw_micrograph(1, config)
    loose = 1  # the only one with a tail
    outside = [shape for shape in drawn.shapes if shape.group_id != loose or shape.label != "Head"]
    all_cells, without = (annotate(replace(drawn, shapes=shapes), 0.0) for shapes in (drawn.shapes, tuple(outside)))
    others = tuple(shape for shape in drawn.shapes if shape.group_id != loose)
    assert len(others) < len(outside) < len(drawn.shapes)
    for part, mask in annotate(replace(drawn, shapes=others), 0.0).items():
        assert np.array_equal(without[part], mask)
        assert mask.sum() < all_cells[part].sum()


def test_finer_masks_are_the_same_outlines_in_more_pixels():
    config = replace(random_draw_config(np.random.default_rng(2), 192, 256, 1.0), cells=(5, 5), beyond=0.0)
    drawn = draw_micrograph(1, config)
    coarse, fine = annotate(drawn, config.scale), annotate(drawn, config.scale, finer=4)
    for part, mask in fine.items():
        assert mask.shape == (4 * 192, 4 * 256)
        share = mask.reshape(192, 4, 256, 4).mean(axis=(1, 3))
        assert not (coarse[part] & (share == 0)).any(), part
        assert not (~coarse[part] & (share == 1)).any(), part
        assert share.sum() == pytest.approx(coarse[part].sum(), rel=0.1), part


def test_a_pixel_that_is_a_mean_of_many_is_less_noisy():
    noises = [random_draw_config(np.random.default_rng(3), 64, 64, scale).noise for scale in (1.0, 0.5, 0.25)]
    assert noises[0] == noises[1] == pytest.approx(2 * noises[2])


def test_round_cells_darken_the_picture_and_are_in_no_mask():
    config = replace(drawing(2), cells=(0, 0), debris=0.0, round_cells=(0, 0))
    without, with_some = draw_micrograph(7, config), draw_micrograph(7, replace(config, round_cells=(3, 3)))
    assert not annotate(with_some, config.scale)["cell"].any()
    darker = without.pixels.mean(axis=2) - with_some.pixels.mean(axis=2)
    assert (darker > 20).sum() > 100
