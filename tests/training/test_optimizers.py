"""Muon against singular value decomposition and PyTorch's own, and who moves what."""

import numpy as np
import pytest
import torch

from spermseg.model.unet import UNet
from spermseg.model.unet_config import UNetConfig
from spermseg.training.optimizers import Muon, make_optimizers, orthogonal

NETWORK = UNetConfig(filters=(4, 6), bridge=8)


@pytest.mark.parametrize("shape", [(8, 8), (32, 288), (96, 20)])
def test_the_directions_of_a_matrix_stay_and_its_lengths_become_about_1(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.linspace(0.3, 3, shape[1]))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonal(matrix) @ right.T
    lengths = turned.diagonal()
    assert lengths.min() > 0.6
    assert lengths.max() < 1.3
    assert torch.allclose(turned, torch.diag(lengths), atol=1e-3)


def test_steps_are_those_of_pytorch_but_for_its_bfloat16():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(16, 36)) for _ in range(2))
    here = Muon([ours], lr=0.01, weight_decay=0.1)
    there = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        ours.grad = torch.randn(16, 36)
        theirs.grad = ours.grad.clone()
        here.step()
        there.step()
    moved = (theirs - 1).norm()
    assert moved > 0.1
    assert (ours - theirs).norm() < 0.02 * moved


def test_a_kernel_in_any_memory_order_moves_the_same_way():
    torch.manual_seed(0)
    start, gradient = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    moved = []
    for order in (torch.contiguous_format, torch.channels_last):
        kernel = torch.nn.Parameter(start.clone().to(memory_format=order))
        kernel.grad = gradient.clone().to(memory_format=order)
        Muon([kernel], lr=0.1).step()
        moved.append(kernel.detach())
    assert torch.allclose(*moved, atol=1e-6)
    assert (moved[0] - start).square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.15)


def test_muon_moves_kernels_and_adam_all_else():
    network = UNet(NETWORK)
    made = make_optimizers(network, "muon", learning_rate=0.1, weight_decay=0.0)
    moved = {name: [one for group in each.param_groups for one in group["params"]] for name, each in made.items()}
    assert {one.ndim for one in moved["muon"]} == {4}
    assert sum(one.numel() for each in moved.values() for one in each) == sum(p.numel() for p in network.parameters())
    assert any(one is network.head.weight for one in moved["adam"])
    assert make_optimizers(network, "adam", learning_rate=0.1, weight_decay=0.0).keys() == {"adam"}


def test_a_kernel_without_a_gradient_stays():
    kernel = torch.nn.Parameter(torch.ones(2, 2, 3, 3))
    Muon([kernel], lr=1.0, weight_decay=1.0).step()
    assert np.array_equal(kernel.detach().numpy(), np.ones((2, 2, 3, 3)))
