"""Folding: the same logits by less arithmetic, whatever the network."""

import pytest
import torch
from support.untrained import SMALL, trained_looking

from spermseg.model.folded import CellProbability, FoldedUNet
from spermseg.model.unet_config import UNetConfig

CONFIGS = [
    SMALL,
    UNetConfig(),
    UNetConfig(filters=(3,), bridge=3, classes=("head", "tail")),
    UNetConfig(filters=(2, 3, 4, 5, 6), bridge=7, in_channels=1),
    UNetConfig(filters=(4, 6), bridge=8, residual=True),
    UNetConfig(filters=(4, 6), bridge=8, subpixel=2, classes=("head", "tail")),
]


def tiles(config: UNetConfig, count: int = 2) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (count, 64, 96, config.in_channels), dtype=torch.uint8)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_folding_changes_no_logit_and_leaves_the_network_as_it_was(config):
    network = trained_looking(config)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = FoldedUNet(network)
    x = tiles(config).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        assert torch.allclose(folded(x), network(x / 255), atol=1e-4, rtol=1e-4)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_cell_is_as_probable_as_its_likeliest_part(config):
    network = trained_looking(config)
    with torch.inference_mode():
        parts = torch.sigmoid(network(tiles(config).permute(0, 3, 1, 2) / 255))
        found = CellProbability(network)(tiles(config))
    assert found.dtype == torch.float32
    assert torch.allclose(found, parts.amax(dim=1), atol=1e-5)


def test_half_precision_takes_pixels_as_they_are_and_gives_full_precision():
    module = CellProbability(trained_looking(SMALL), half=True).to(torch.bfloat16)
    with torch.inference_mode():
        assert module(tiles(SMALL)).dtype == torch.float32
    assert torch.equal(torch.arange(256).to(torch.bfloat16).float(), torch.arange(256.0))


def test_a_bright_field_is_no_less_exact_in_half_precision():
    """One rounded weight an input would be off by 255 * 2**-9 times its size, the same way in every pixel."""
    network = trained_looking(SMALL)
    bright = torch.full((1, 64, 64, 3), 250, dtype=torch.uint8).permute(0, 3, 1, 2)
    with torch.inference_mode():
        exact = CellProbability(network).network.encoder[0][0](bright.float())
        half = CellProbability(network, half=True).network.encoder[0][0]
        for parameter in half.parameters():
            parameter.data = parameter.data.bfloat16().float()
        found = half(bright.float())
    assert (found - exact).abs().max() < 1e-4 * exact.abs().max()
