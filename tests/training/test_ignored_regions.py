"""Annotations that leave cells out, and what is not learned from them."""

from dataclasses import replace

import numpy as np
import pytest
from support.untrained import write_untrained_model

from spermseg.errors import ConfigError
from spermseg.micrograph.tiling import Tiles
from spermseg.model.saved import load_model
from spermseg.model.unet_config import UNetConfig
from spermseg.storage.filesystem import Location
from spermseg.training.data.coverage import FULL, UNKNOWN
from spermseg.training.data.ignored_regions import NEAR, forget_cut_off, loose_pieces
from spermseg.training.data.source import AnnotatedData

SCALE = 0.25
EDGE = int(NEAR * SCALE)
"""What is near at this resolution, px."""


@pytest.fixture
def found():
    """An annotated cell, a tail across it, and a cell with a head that nobody has annotated; and what is drawn."""
    cell, head, drawn = (np.zeros((60, 80), np.float32) for _ in range(3))
    for one in (cell, drawn):
        one[10:18, 5:13] = one[13:15, 13:70] = 1
    cell[9:19, 4:14] = 1  # the model draws the head a little larger
    cell[2:50, 40:42] = 1
    cell[40:48, 50:58] = cell[43:45, 58:78] = head[40:48, 50:58] = head[10:18, 5:13] = 1
    return {"cell": 0.9 * cell, "head": 0.9 * head}, drawn > 0


def test_a_tail_that_nobody_has_annotated_is_left_out_on_both_sides_of_a_cell_that_it_crosses(found):
    loose = loose_pieces(*found, 0.5, SCALE)
    assert loose[2 : 13 - EDGE, 40:42].all()
    assert loose[15 + EDGE : 50, 40:42].all()


def test_neither_an_annotated_cell_nor_its_edge_nor_a_cell_with_a_head_is_left_out(found):
    loose = loose_pieces(*found, 0.5, SCALE)
    _, drawn = found
    assert not loose[drawn].any()
    assert not loose[9:19, 4:14].any()
    assert not loose[40:48, 50:78].any()


@pytest.fixture
def tile():
    """The coverage (Y, X, 3) of cells, heads and tails: a whole cell, and one whose head is outside, above."""
    coverage = np.zeros((60, 80, 3), np.uint8)
    coverage[40:48, 5:13, :2] = FULL
    coverage[43:45, 5:60, 0] = coverage[43:45, 13:60, 2] = FULL
    coverage[0:20, 50:52, ::2] = FULL
    coverage[0:20, 49, ::2] = FULL // 4  # its edge
    return coverage


def test_of_a_cell_whose_head_a_tile_cuts_off_nothing_is_learned_and_its_edge_goes_with_it(tile):
    learned = forget_cut_off(tile, ("cell", "head", "tail"), SCALE)
    assert (learned[0:20, 49:52] == UNKNOWN).all()
    assert np.array_equal(learned[30:], tile[30:])
    assert np.array_equal(learned[:, :40], tile[:, :40])
    assert not (tile == UNKNOWN).any(), "what is given stays as it is"


def test_a_head_of_which_nothing_is_known_is_no_head(tile):
    tile[40:48, 5:13] = UNKNOWN
    assert (forget_cut_off(tile, ("cell", "head", "tail"), SCALE)[43:45, 13:60] == UNKNOWN).all()


def test_where_no_heads_are_learned_all_is_learned(tile):
    assert np.array_equal(forget_cut_off(tile[..., ::2], ("cell", "tail"), SCALE), tile[..., ::2])


@pytest.fixture
def scout(tmp_path):
    config = UNetConfig(filters=(4,), bridge=4, classes=("cell", "head"))
    return load_model(Location(str(write_untrained_model(tmp_path / "model", config, seed=3, min_area=0))))


def test_what_a_scout_finds_is_left_out_of_an_example_but_nothing_that_is_annotated(scout, tiny_dataset):
    view = Tiles(scale=0.5, tile=64, halo=16)
    certain = replace(scout, description=replace(scout.description, threshold=0.01))  # it finds cells everywhere
    plain, careful = AnnotatedData(dataset=tiny_dataset), AnnotatedData(dataset=tiny_dataset, scout=certain)
    name = plain.names("train")[0]
    before, after = plain.load(name, view, ("cell",)).coverage, careful.load(name, view, ("cell",)).coverage
    ignored = after == UNKNOWN
    assert np.array_equal(after[~ignored], before[~ignored])
    assert ignored.any()
    assert not before[ignored].any()
    assert careful.sha256 not in (plain.sha256, replace(careful, scout=replace(scout, sha256="f")).sha256)


def test_a_scout_that_knows_no_heads_is_refused(scout, tiny_dataset):
    blind = replace(scout.network.config, classes=("cell", "tail"))
    scout.network.config = blind
    with pytest.raises(ConfigError, match="has learned cell, tail"):
        AnnotatedData(dataset=tiny_dataset, scout=scout)
