"""The bundled model: small, whole, and good at micrographs that it has not seen."""

import numpy as np

from spermseg.evaluation.pixel_metrics import confusion, pooled
from spermseg.model.predict import Predictor
from spermseg.model.pretrained import PRETRAINED, model_location
from spermseg.model.saved import load_model
from spermseg.recipes import PARTS, recipe
from spermseg.synthetic.domain import annotate
from spermseg.synthetic.draw import DrawConfig, draw_micrograph

UNSEEN = range(10**6, 10**6 + 4)
"""Seeds."""


def test_it_is_small_and_knows_the_whole_cell_and_its_parts():
    assert PRETRAINED.stat().st_size < 4_000_000
    description = load_model(model_location(None, None)).description
    assert description.network.classes == PARTS
    assert description.recipe == "clinic"
    assert description.require_head


def test_it_is_a_start_for_the_recipe():
    """`spermseg train --recipe clinic --init pretrained` needs a network of the same shape."""
    clinic = recipe("clinic")
    description = load_model(model_location(None, None)).description
    assert (description.network, description.view) == (clinic.network, clinic.view)


def test_a_model_that_is_given_is_taken_instead():
    assert model_location("s3://bucket/model", "http://host").uri == "s3://bucket/model"


def test_it_finds_the_cells_of_micrographs_and_their_parts():
    saved = load_model(model_location(None, None))
    predictor = Predictor(saved, saved.description.view, parts=True)
    counts = {part: [] for part in predictor.classes}
    for seed in UNSEEN:
        drawn = draw_micrograph(seed, DrawConfig(height=512, width=640, cells=(2, 5), inner_parts=True))
        truth, found = annotate(drawn, 1.0), predictor.predict_parts(predictor.view.working_pixels(drawn.pixels))
        for part, probability in found.items():
            mask = saved.description.view.working_mask(truth[part])
            counts[part].append(confusion(np.asarray(probability >= saved.description.threshold), mask))
    dice = {part: pooled(each).dice for part, each in counts.items()}
    assert dice["cell"] > 0.85
    assert dice["head"] > 0.9
    assert dice["acrosome"] > 0.7
    assert dice["tail"] > 0.7
