"""Every clinic at once: it varies, it can always be drawn, and its masks are a little wide where people draw wide."""

from dataclasses import replace

import numpy as np
import pytest

from spermseg.micrograph.synthetic import draw_micrograph
from spermseg.micrograph.synthetic_domain import MARGIN, annotate, random_drawing


def drawing(seed: int):
    return random_drawing(np.random.default_rng(seed), 192, 256, 0.25)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_chosen_can_be_drawn_and_annotated(seed):
    config = drawing(seed)
    drawn = draw_micrograph(seed, config)
    masks = annotate(drawn, config.scale)
    assert drawn.pixels.shape == (192, 256, 3)
    assert set(masks) == {"cell", "head", "midpiece", "tail"}
    assert all(mask.shape == (192, 256) for mask in masks.values())
    assert np.array_equal(masks["cell"], masks["head"] | masks["midpiece"] | masks["tail"])


def test_clinics_differ_in_magnification_light_and_stain():
    configs = [drawing(seed) for seed in range(40)]
    for name, least in (("scale", 1.6), ("blur", 2), ("head_stain", 1.8), ("tail_stain", 3)):
        values = [getattr(config, name) for config in configs]
        assert max(values) / min(values) > least, name
    assert len({config.cells for config in configs}) > 5
    assert {config.round_cells for config in configs} == {(0, 0), (0, 1)}


def test_tails_are_outlined_wider_than_they_are_painted_and_heads_are_not():
    config = replace(random_drawing(np.random.default_rng(2), 192, 256, 0.5), cells=(5, 5), beyond=0.0)
    drawn = draw_micrograph(1, config)
    with_margin, without = annotate(drawn, config.scale), annotate(drawn, 0.0)
    assert MARGIN > 0
    assert np.array_equal(with_margin["head"], without["head"])
    assert with_margin["tail"].sum() > without["tail"].sum() > 0
    assert (with_margin["tail"] >= without["tail"]).all()


def test_round_cells_darken_the_picture_and_are_in_no_mask():
    config = replace(drawing(2), cells=(0, 0), debris=0.0, round_cells=(0, 0))
    without, with_some = draw_micrograph(7, config), draw_micrograph(7, replace(config, round_cells=(3, 3)))
    assert not annotate(with_some, config.scale)["cell"].any()
    darker = without.pixels.mean(axis=2) - with_some.pixels.mean(axis=2)
    assert (darker > 20).sum() > 100
