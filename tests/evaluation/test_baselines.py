import numpy as np
import pytest
from scipy import ndimage

from spermseg.evaluation.baselines import BASELINES
from spermseg.evaluation.pixel_metrics import confusion
from spermseg.synthetic.draw import DrawConfig, draw_micrograph, paint

DRAWING = DrawConfig(height=512, width=640, scale=0.5, cells=(6, 10), debris=0.3, slide=1)


@pytest.fixture(scope="module")
def drawn():
    """A synthetic micrograph and the mask of its cells."""
    micrograph = draw_micrograph(3, DRAWING)
    covered = paint([[shape.points] for shape in micrograph.shapes], [1.0] * len(micrograph.shapes), 512, 640)
    return micrograph.pixels, covered >= 0.5


@pytest.mark.parametrize("name", BASELINES)
def test_stained_cells_are_found_on_a_clean_slide(name, drawn):
    pixels, truth = drawn
    mask = BASELINES[name](pixels)
    assert (mask.shape, mask.dtype) == (truth.shape, np.dtype(bool))
    assert confusion(mask, truth).dice > 0.5


@pytest.mark.parametrize("name", ["medina", "mostajer"])
def test_dirt_that_is_smaller_than_any_cell_is_dropped(name, drawn):
    pixels, truth = drawn
    occupied = truth | BASELINES[name](pixels)
    y, x = np.unravel_index(np.argmax(ndimage.distance_transform_edt(np.pad(~occupied, 1))), (514, 642))
    dirty, place = pixels.copy(), np.s_[y - 4 : y + 4, x - 4 : x + 4]
    dirty[place] = 20
    assert not BASELINES[name](dirty)[place].any()
    assert BASELINES["otsu"](dirty)[place].all()


def test_uneven_light_misleads_otsu_and_is_divided_out_after_medina(drawn):
    pixels, truth = drawn
    falling = np.linspace(1, 0.45, pixels.shape[1])[None, :, None]
    uneven = (pixels * falling).astype(np.uint8)
    scores = {name: confusion(BASELINES[name](uneven), truth).dice for name in ("otsu", "medina")}
    assert scores["otsu"] < 0.3
    assert scores["medina"] > 0.5


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_one_grey_has_an_answer(name, level):
    mask = BASELINES[name](np.full((64, 96, 3), level, np.uint8))
    assert mask.shape == (64, 96)
