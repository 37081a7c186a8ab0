"""How much bfloat16 changes a model's masks. Any machine can measure this."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spermseg.micrograph.tiling import View
from spermseg.model.folded import CellProbability
from spermseg.model.predict import predict_working, window_layout
from spermseg.model.unet import UNet

BATCH_PX = 2**20


def mask_agreement(network: UNet, view: View, threshold: float, pictures: Iterable[NDArray[np.uint8]]) -> float:
    """Return the IoU of the masks in bfloat16 with those in float32, pooled over pictures; 1 where both are empty.

    A machine without instructions for bfloat16 is slow or rounds in other places, so this function imitates them. It
    rounds every weight, and the output of every convolution, to bfloat16, and keeps sums in float32, as the
    instructions do.

    Args:
        network: the network.
        view: how the network sees a picture.
        threshold: least probability of a pixel of the mask, 0-1.
        pictures: (Y, X, 3) uint8, at the working resolution.
    """
    exact, rounded = CellProbability(network), _rounded(CellProbability(network, half=True))
    layout = window_layout(view, network.config, BATCH_PX)
    both = either = 0
    for picture in pictures:
        one, other = (
            next(predict_working(forward_here(module), layout, [picture], BATCH_PX)) >= threshold
            for module in (exact, rounded)
        )
        both += int(np.count_nonzero(one & other))
        either += int(np.count_nonzero(one | other))
    return both / either if either else 1.0


def forward_here(module: CellProbability) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return a function that runs a network in this process, on the CPU: tiles (N, Y, X, C) uint8 -> maps (N, Y, X)."""

    @torch.inference_mode()
    def forward(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = module(torch.from_numpy(tiles)).numpy()
        return found

    return forward


def _rounded(module: CellProbability) -> CellProbability:
    """Round all weights, and the output of each layer that has weights."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            for parameter in layer.parameters():
                parameter.data = parameter.data.bfloat16().float()
            layer.register_forward_hook(_round)
    return module


def _round(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:  # noqa: ARG001 (a hook's)
    return output.bfloat16().float()
