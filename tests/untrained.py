"""A model file of random weights: its masks are nonsense, and the same every time."""

from pathlib import Path

import torch

from spermseg.micrograph.tiling import WholeFrame
from spermseg.model.saved import ModelDescription, encode_model
from spermseg.model.unet import UNet, UNetConfig


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
