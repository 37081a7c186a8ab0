"""A model for benchmarks: the paper's network, trained for minutes on synthetic pictures, for realistic masks."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from spermseg.annotation.rasterise import rasterise
from spermseg.micrograph.tiling import Tiles
from spermseg.model.description import ModelDescription
from spermseg.model.precision import mask_agreement
from spermseg.model.saved import SavedModel, decode_model, encode_model
from spermseg.model.unet import UNet
from spermseg.model.unet_config import UNetConfig
from spermseg.synthetic.draw import DrawConfig, draw_micrograph
from spermseg.training.config import TrainConfig
from spermseg.training.data.coverage import full_coverage
from spermseg.training.data.sampling import Sampler, WorkingExample
from spermseg.training.fit import Fit

SCALE = 0.5
"""Scale of the synthetic cells."""
PICTURES, HELD_OUT = 24, 4
NETWORK = UNetConfig()
VIEW = Tiles(scale=1.0, tile=256, halo=112)
THRESHOLD = 0.5


def example(seed: int, height: int = 512, width: int = 640) -> WorkingExample:
    """Draw one annotated micrograph."""
    made = draw_micrograph(seed, DrawConfig(height=height, width=width, scale=SCALE))
    mask = rasterise((shape.outline() for shape in made.shapes), height, width)
    return WorkingExample(pixels=made.pixels, coverage=full_coverage(mask[..., np.newaxis]))


def briefly_trained(path: Path, epochs: int = 40) -> SavedModel:
    """Return the model of a file. Where there is no file, train a model in about five minutes and write it."""
    if not path.exists():
        train = [example(seed) for seed in range(PICTURES)]
        held_out = [example(1000 + seed) for seed in range(HELD_OUT)]
        config = TrainConfig(
            epochs=epochs, learning_rate=5e-3, schedule="one-cycle", loss="bce+dice", augment="none", expansion=1
        )
        fit = Fit(
            network_config=NETWORK,
            view=VIEW,
            config=config,
            train=Sampler(examples=train, tile=VIEW.tile, scale=VIEW.scale, config=config),
            val=held_out,
        )
        with tqdm(total=epochs, desc="training a model", unit="epoch") as bar:
            state = fit.run(on_epoch=lambda _: bar.update())
        network = UNet(NETWORK).eval()
        network.load_state_dict(state.best_weights)
        description = ModelDescription(
            network=NETWORK,
            view=VIEW,
            threshold=THRESHOLD,
            min_area=30,
            recipe="clinic",
            settings={},
            training_data_sha256="",
            scores={"val_dice": max(record["val_dice"] for record in state.history)},
            mask_agreement=mask_agreement(network, VIEW, THRESHOLD, (one.pixels for one in held_out)),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_model(state.best_weights, description))
    return decode_model(path.read_bytes())
