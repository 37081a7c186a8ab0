"""The measure of half precision: 1 where rounding changes nothing, less where it does."""

import numpy as np
import torch
from support.dark_cells import darkness_model, draw
from support.untrained import SMALL, trained_looking, working_map

from spermseg.micrograph.tiling import Tiles
from spermseg.model.precision import mask_agreement
from spermseg.model.predict import PredictConfig, Predictor
from spermseg.model.saved import SavedModel, decode_model

VIEW = Tiles(scale=1, tile=96, halo=32)


def noise(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(0, 256, (100, 130, 3), dtype=np.uint8) for n in range(count)]


def test_masks_that_hang_by_no_hair_agree_fully():
    saved = decode_model(darkness_model())
    assert mask_agreement(saved.network, VIEW, 0.5, [draw(5)[0], draw(0)[0]]) == 1.0


def test_masks_of_noise_agree_less_and_as_little_as_real_half_precision_shows():
    network = trained_looking(SMALL)
    found = mask_agreement(network, VIEW, 0.5, noise(3))
    assert 0.9 < found < 1.0
    saved = SavedModel(network=network, description=decode_model(darkness_model()).description, sha256="")
    masks = []
    for precision in ("float32", "bfloat16"):
        config = PredictConfig(device="cpu", engine="torch", precision=precision)
        predictor = Predictor(saved, VIEW, config)
        masks.append(np.stack([working_map(predictor, one) >= 0.5 for one in noise(3)]))
    real = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
    assert abs(real - found) < 0.01


def test_no_pictures_and_empty_masks_agree():
    network = trained_looking(SMALL)
    assert mask_agreement(network, VIEW, 0.5, []) == 1.0
    assert mask_agreement(network, VIEW, 1.0, noise(1)) == 1.0


def test_the_network_is_left_as_it_was():
    network = trained_looking(SMALL)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    mask_agreement(network, VIEW, 0.5, noise(1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
