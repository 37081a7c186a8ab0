"""Optimisers: Adam for all weights, or Muon for the kernels and Adam for the rest."""

from collections.abc import Iterable
from math import sqrt
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

OptimizerName = Literal["adam", "muon"]
ITERATIONS = 5
"""Newton-Schulz iterations; the singular values come out between 0.7 and 1.2."""
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the first, third and fifth power in each iteration; the author's values."""
AS_ADAM = 0.2
"""Typical root mean square of Adam's steps, divided by the learning rate."""


class Muon(Optimizer):
    """Muon: steps that are equally long in all directions of a kernel (Jordan et al., 2024).

    A kernel (O, I, Y, X) is reshaped to a matrix (O, I Y X). The singular values of its momentum are brought to about
    1, so rare features are learned as fast as frequent ones. A step has the size of Adam's steps (Liu et al., arXiv
    2502.16982), so learning rate and weight decay mean the same for both.

    `torch.optim.Muon` takes only matrices. It computes in bfloat16, which takes 14 times as long on a CPU without
    instructions for bfloat16.
    """

    def __init__(
        self, kernels: Iterable[Tensor], *, lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        """Prepare to update tensors of two or more axes."""
        super().__init__(kernels, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override] # takes no closure
        """Update every kernel that has a gradient."""
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is not None:
                    move = self._move(kernel, group["momentum"])
                    kernel.mul_(1 - group["lr"] * group["weight_decay"])
                    kernel.sub_(move, alpha=group["lr"])

    def _move(self, kernel: Tensor, momentum: float) -> Tensor:
        state = self.state[kernel]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(kernel)
        momentum_buffer: Tensor = state["momentum_buffer"].lerp_(kernel.grad, 1 - momentum)
        matrix = torch.lerp(kernel.grad, momentum_buffer, momentum).flatten(1)  # type: ignore[arg-type] # there is one
        length = AS_ADAM * sqrt(max(matrix.shape))
        return orthogonal(matrix).mul(length).reshape(kernel.shape)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return a matrix (M, N) with its singular vectors kept, and its singular values between 0.7 and 1.2.

    Singular values below a hundredth of the Frobenius norm come out below 0.7.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    first, third, fifth = QUINTIC
    x: Tensor = matrix / (matrix.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = first * x + (third * square + fifth * square @ square) @ x
    return x


def make_optimizers(
    network: nn.Module, name: OptimizerName, *, learning_rate: float, weight_decay: float
) -> dict[str, Optimizer]:
    """Return the optimisers by name. Muon trains the kernels of all convolutions except the last one, `head`."""
    parameters = dict(network.named_parameters())
    made: dict[str, Optimizer] = {}
    if name == "muon":
        kernels = [key for key, one in parameters.items() if one.ndim == 4 and not key.startswith("head.")]
        made["muon"] = Muon([parameters.pop(key) for key in kernels], lr=learning_rate, weight_decay=weight_decay)
    made["adam"] = AdamW(parameters.values(), lr=learning_rate, weight_decay=weight_decay)
    return made
