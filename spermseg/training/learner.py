"""One network in training: its optimisers, learning rate schedule, and the EMA of its weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from spermseg.errors import ConfigError
from spermseg.model.engine import runs_bfloat16_fast
from spermseg.model.saved import SavedModel
from spermseg.model.unet import UNet
from spermseg.model.unet_config import UNetConfig
from spermseg.training.config import TrainConfig
from spermseg.training.losses import segmentation_loss
from spermseg.training.optimizers import make_optimizers

Weights = dict[str, Tensor]
Tensors = tuple[Tensor, ...] | list[Tensor]
EMA_RISE = 10
"""After n steps, the EMA decay is at most (1 + n) / (EMA_RISE + n): an early EMA spans about the last n / 10 steps."""


class Learner:
    """Takes the training steps. `network` is trained; `kept`, which may be its EMA, is scored and saved."""

    def __init__(self, network: nn.Module, config: TrainConfig, steps: int, device: torch.device) -> None:
        """Prepare to take `steps` steps an epoch."""
        self.config, self.steps, self.device = config, steps, device
        self.network = network.to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers = make_optimizers(
            self.network, config.optimizer, learning_rate=config.learning_rate, weight_decay=config.weight_decay
        )
        self.ema: AveragedModel | None = None
        if config.ema_decay:
            self.ema = AveragedModel(self.network, multi_avg_fn=_ema_update(config.ema_decay), use_buffers=True)
        self._schedules = self._start_schedules()
        self._wrapped: nn.Module = self.network

    @property
    def evaluated(self) -> nn.Module:
        """The network that is scored and saved."""
        return self.ema.module if self.ema else self.network

    def distribute(self) -> None:
        """From now on, average gradients with all other workers; on GPUs, also share batch statistics."""
        wrapped = self.network
        if self.device.type == "cuda":
            wrapped = nn.SyncBatchNorm.convert_sync_batchnorm(wrapped)  # type: ignore[no-untyped-call]
        self._wrapped = DistributedDataParallel(wrapped, [self.device] if self.device.type == "cuda" else None)

    def start_epoch(self) -> None:
        """Switch to training mode."""
        self._wrapped.train()
        if self.config.freeze_batch_norm:
            _freeze_batch_norm(self._wrapped)

    def step(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Train on a batch; return its loss and its logits."""
        with self.precision():
            logits = self._wrapped(x)
        loss = segmentation_loss(logits.float(), target, self.config.loss)
        self.network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers.values():
            optimizer.step()
        for schedule in self._schedules:
            schedule.step()
        if self.ema:
            self.ema.update_parameters(self.network)
        return loss.detach(), logits.detach()

    def sync_buffers(self) -> None:
        """Copy the first worker's batch normalisation statistics to `evaluated` of all workers.

        On CPUs, each worker has its own statistics. With the copy, all workers score the network that is saved.
        """
        if self._wrapped is not self.network:
            for buffer in self.evaluated.buffers():
                torch.distributed.broadcast(buffer, 0)

    def precision(self) -> torch.autocast:
        """Return the context in which the network computes."""
        wanted = self.config.precision
        half = wanted == "bfloat16" or (wanted == "auto" and runs_bfloat16_fast(self.device))
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half or self.device.type == "cuda")

    def state(self) -> dict[str, Any]:
        """Return copies of the training state: `weights`, their `ema` (empty where there is none), `optimizers`."""
        return {
            "weights": _copy(self.network),
            "ema": _copy(self.ema.module) if self.ema else {},
            "optimizers": {name: one.state_dict() for name, one in self.optimizers.items()},
        }

    def resume(self, *, weights: Weights, ema: Weights, optimizers: dict[str, Any], epochs: int) -> None:
        """Resume from a state, after this number of epochs."""
        self.network.load_state_dict(weights)
        if self.ema:
            self.ema.module.load_state_dict(ema)
            self.ema.n_averaged.fill_(epochs * self.steps)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(optimizers[name])
        self._schedules = self._start_schedules(epochs)

    def _start_schedules(self, epochs_done: int = 0) -> list[LRScheduler]:
        """Return the learning rate schedule of each optimiser; none where the rate is constant."""
        if self.config.schedule == "constant":
            return []
        total = max(self.config.epochs, epochs_done) * self.steps + 1
        last = epochs_done * self.steps - 1
        rate = self.config.learning_rate
        return [OneCycleLR(one, rate, total_steps=total, last_epoch=last) for one in self.optimizers.values()]


def _ema_update(most: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return the update of an EMA, for `AveragedModel`. Its decay rises to `most` (`EMA_RISE`)."""

    def move(kept: Tensors, latest: Tensors, steps: Tensor | int) -> None:
        done = int(steps)  # waits for the GPU, so only once
        share = min(most, (1 + done) / (EMA_RISE + done))
        get_ema_multi_avg_fn(share)(kept, latest, steps)  # type: ignore[no-untyped-call]

    return move


def first_weights(begun: SavedModel, config: UNetConfig, seed: int) -> Weights:
    """Return the weights of a model for a network of the same shape. Classes that the model lacks start from scratch.

    Raises:
        ConfigError: the shape is not the same.
    """
    if replace(begun.description.network, classes=config.classes) != config:
        begun_with = begun.description.network
        raise ConfigError(
            f"got a model with filters {begun_with.filters} and bridge {begun_with.bridge}; {config.filters} and "
            f"{config.bridge} are needed: leave out --filters, --bridge, --residual and --subpixel"
        )
    torch.manual_seed(seed)
    weights = {**begun.network.state_dict()}
    for name, fresh in UNet(config).state_dict().items():
        if name.startswith("head."):
            old = weights[name]
            rows = config.subpixel**2
            for row, part in enumerate(config.classes):
                if part in begun.description.network.classes:
                    before = begun.description.network.classes.index(part)
                    fresh[row * rows : (row + 1) * rows] = old[before * rows : (before + 1) * rows]
            weights[name] = fresh
    return weights


def _copy(network: nn.Module) -> Weights:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def _freeze_batch_norm(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
