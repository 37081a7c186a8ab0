"""Networks and model files of random weights: their masks are nonsense, and the same every time."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spermseg.micrograph.tiling import WholeFrame
from spermseg.model.description import ModelDescription
from spermseg.model.predict import Predictor
from spermseg.model.saved import encode_model
from spermseg.model.unet import UNet
from spermseg.model.unet_config import UNetConfig

SMALL = UNetConfig(filters=(4, 6), bridge=8)


@cache
def trained_looking(config: UNetConfig, seed: int = 0) -> UNet:
    """A network in which every number counts: statistics of real activations, and logits of 1.5 around 0."""
    torch.manual_seed(seed)
    network = UNet(config)
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(4, config.in_channels, 64, 64))
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
        logits = network.eval()(torch.rand(4, config.in_channels, 64, 64))
        centre, scale = (
            each.repeat_interleave(config.subpixel**2)
            for each in (logits.mean(dim=(0, 2, 3)), 1.5 / logits.std(dim=(0, 2, 3)))
        )
        assert network.head.bias is not None
        network.head.bias.sub_(centre).mul_(scale)
        network.head.weight.mul_(scale[:, None, None, None])
    return network


def write_untrained_model(path: Path, network: UNetConfig, *, seed: int, min_area: int) -> Path:
    torch.manual_seed(seed)
    description = ModelDescription(
        network=network,
        view=WholeFrame(size=64),
        threshold=0.5,
        min_area=min_area,
        recipe="paper",
        settings={},
        training_data_sha256="",
    )
    path.write_bytes(encode_model(UNet(network).state_dict(), description))
    return path


def working_map(predictor: Predictor, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the probability map (Y, X) of one picture (Y, X, 3), at the working resolution."""
    (probability,) = predictor.predict_working([predictor.view.working_pixels(picture)])
    return probability
