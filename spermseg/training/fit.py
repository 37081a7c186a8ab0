"""The training loop: plain PyTorch, on one worker or many, on a CPU or a GPU."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from spermseg.errors import ConfigError
from spermseg.micrograph.tiling import View
from spermseg.model.predict import network_input, predict_working, window_layout
from spermseg.model.unet import UNet, UNetConfig
from spermseg.training.augment import AugmentName, check_expansion
from spermseg.training.losses import LossName, segmentation_loss
from spermseg.training.metrics import Confusion, confusion
from spermseg.training.sampling import Sampler, WorkingExample

Weights = dict[str, Tensor]
ScheduleName = Literal["constant", "one-cycle"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the network learns. The defaults are the paper's."""

    epochs: int = 30
    """Times that the training split is seen, each with its variants."""
    batch_size: int = 4
    """Pictures a step, over all workers."""
    learning_rate: float = 3e-4
    """Of Adam; the highest one of a schedule."""
    schedule: ScheduleName = "constant"
    """Of the learning rate: `one-cycle` rises for a third of the steps and falls to nothing (Smith and Topin, 2019)."""
    loss: LossName = "bce"
    """`bce` is binary cross-entropy; `bce+dice` adds the soft Dice loss."""
    augment: AugmentName = "paper"
    """`paper` is its five transforms, `clinic` a stronger mixture, `none` nothing."""
    expansion: int = 6
    """Pictures that an epoch makes of each: itself and its variants."""
    seed: int = 0
    """Of the first weights, the order and the variants."""
    freeze_batch_norm: bool = False
    """Keep the statistics of batch normalisation as they are: for fine-tuning with small batches."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.learning_rate > 0:
            raise ConfigError(
                f"got {self.epochs} epochs, batch size {self.batch_size}, learning rate {self.learning_rate:g}; "
                "1 or more of each, and a rate above 0, is needed"
            )
        check_expansion(self.augment, self.expansion)


@dataclass(frozen=True, kw_only=True)
class Team:
    """The workers that train together; torch.distributed is set up where there are several."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all workers."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.size > 1:
            torch.distributed.all_reduce(total)
        return [float(value) for value in total.cpu()]

    def together(self, network: nn.Module) -> nn.Module:
        """Return the network with its gradients averaged, and on GPUs its batch statistics shared, over all workers."""
        if self.size == 1:
            return network
        if self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
            return DistributedDataParallel(network, device_ids=[self.device])
        return DistributedDataParallel(network)


@dataclass(frozen=True, kw_only=True, eq=False)
class FitState:
    """All that a training needs to go on."""

    epoch: int = 0
    """Epochs done."""
    weights: Weights = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    best_epoch: int = 0
    best_weights: Weights = field(default_factory=dict)
    """Those of the epoch with the highest Dice on the validation split."""
    snapshots: Mapping[int, Weights] = field(default_factory=dict)
    """Epoch -> weights, of the epochs that are to be kept, too."""
    history: tuple[dict[str, float], ...] = ()
    """One record an epoch: epoch, train_loss, val_loss, train_iou, val_iou, train_dice, val_dice ..."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Where a training is, for a progress bar."""

    epoch: int
    """Under way, from 1."""
    step: int
    """Done in this epoch."""
    steps: int
    """Of an epoch."""
    loss: float
    """Mean over the steps of this epoch so far."""
    history: tuple[dict[str, float], ...]
    """The epochs that are done."""


@dataclass(kw_only=True, eq=False)
class Fit:
    """One training: network, examples and settings, with `run` to train it."""

    network_config: UNetConfig
    view: View
    config: TrainConfig
    train: Sequence[WorkingExample]
    val: Sequence[WorkingExample]
    threshold: float = 0.5
    snapshots: Sequence[int] = ()
    """Epochs whose weights are kept, beside the best."""
    team: Team = field(default_factory=Team)

    def __post_init__(self) -> None:
        if self.config.batch_size % self.team.size:
            raise ConfigError(
                f"got batch size {self.config.batch_size} for {self.team.size} workers; a multiple of them is needed"
            )
        torch.manual_seed(self.config.seed)
        self.network: nn.Module = UNet(self.network_config).to(self.team.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate)
        self._schedule = self._start_schedule()

    def run(
        self,
        state: FitState | None = None,
        on_epoch: Callable[[FitState], None] | None = None,
        on_step: Callable[[StepReport], None] | None = None,
    ) -> FitState:
        """Train until the last epoch.

        Args:
            state: where to go on; None starts.
            on_epoch: called on every worker after every epoch.
            on_step: called on every worker after every step.
        """
        state = state or FitState()
        if state.epoch:
            self.network.load_state_dict(state.weights)
            self.optimizer.load_state_dict(state.optimizer)
            self._schedule = self._start_schedule(state.epoch)
        wrapped = self.team.together(self.network)
        while state.epoch < self.config.epochs:
            trained = self._train_epoch(wrapped, state, on_step)
            record = {"epoch": state.epoch + 1, **trained, **self._validate()}
            state = self._next_state(state, record)
            if on_epoch:
                on_epoch(state)
        return state

    def _start_schedule(self, epochs_done: int = 0) -> LRScheduler | None:
        """Return what moves the learning rate after every step, where it moves."""
        if self.config.schedule == "constant":
            return None
        steps = self._sampler().steps
        last = epochs_done * steps - 1
        return OneCycleLR(
            self.optimizer, self.config.learning_rate, total_steps=self.config.epochs * steps + 1, last_epoch=last
        )

    def _next_state(self, state: FitState, record: dict[str, float]) -> FitState:
        weights = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
        best = max((entry["val_dice"] for entry in state.history), default=-1.0)
        new = replace(
            state,
            epoch=int(record["epoch"]),
            weights=weights,
            optimizer=self.optimizer.state_dict(),
            history=(*state.history, record),
        )
        if record["val_dice"] > best:
            new = replace(new, best_epoch=new.epoch, best_weights=weights)
        if new.epoch in self.snapshots:
            new = replace(new, snapshots={**state.snapshots, new.epoch: weights})
        return new

    def _train_epoch(
        self, network: nn.Module, state: FitState, on_step: Callable[[StepReport], None] | None
    ) -> dict[str, float]:
        sampler = self._sampler()
        network.train()
        if self.config.freeze_batch_norm:
            _freeze_batch_norm(network)
        loss_sum, counts = 0.0, torch.zeros(4, dtype=torch.int64, device=self.team.device)
        for step, (tiles, masks) in enumerate(sampler.batches(state.epoch), start=1):
            x = network_input(torch.from_numpy(tiles).to(self.team.device, non_blocking=True))
            target = torch.from_numpy(masks).to(self.team.device, non_blocking=True).permute(0, 3, 1, 2).float()
            loss, logits = self._step(network, x, target)
            loss_sum += float(loss)
            counts += _count(logits > _logit(self.threshold), target > 0.5)
            if on_step:
                on_step(
                    StepReport(
                        epoch=state.epoch + 1,
                        step=step,
                        steps=sampler.steps,
                        loss=loss_sum / step,
                        history=state.history,
                    )
                )
        return self._record("train", loss_sum, sampler.steps, [float(n) for n in counts.cpu()])

    def _sampler(self) -> Sampler:
        return Sampler(
            examples=self.train,
            tile=self.view.tile,
            batch_size=self.config.batch_size,
            expansion=self.config.expansion,
            augment=self.config.augment,
            seed=self.config.seed,
            rank=self.team.rank,
            workers=self.team.size,
        )

    def _step(self, network: nn.Module, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.team.device.type, torch.bfloat16, enabled=self.team.device.type == "cuda"):
            logits = network(x)
        loss = segmentation_loss(logits.float(), target, self.config.loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self._schedule:
            self._schedule.step()
        return loss.detach(), logits.detach()

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Score this worker's share of the validation split, at the working resolution, and sum over the workers."""
        self.network.eval()
        share = self.val[self.team.rank :: self.team.size]
        loss_sum, counts = 0.0, Confusion()
        batch_px = self.config.batch_size * self.view.tile**2
        layout = window_layout(self.view, self.network_config, batch_px)
        logits = predict_working(self._forward, layout, (e.pixels for e in share), batch_px)
        for example, maps in zip(share, logits, strict=True):
            target = np.moveaxis(example.mask, -1, 0).astype(bool)
            loss_sum += float(
                segmentation_loss(torch.from_numpy(maps)[None], torch.from_numpy(target)[None], self.config.loss)
            )
            counts += confusion(maps > _logit(self.threshold), target)
        return self._record("val", loss_sum, len(share), [counts.tp, counts.fp, counts.fn, counts.tn])

    def _forward(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = network_input(torch.from_numpy(tiles).to(self.team.device))
        with torch.autocast(self.team.device.type, torch.bfloat16, enabled=self.team.device.type == "cuda"):
            logits: NDArray[np.float32] = self.network(x).float().cpu().numpy()
        return logits

    def _record(self, split: str, loss_sum: float, terms: int, counts: Sequence[float]) -> dict[str, float]:
        """Sum losses and counts over the workers before any ratio is taken."""
        loss_sum, terms_sum, *counts = self.team.sum([loss_sum, terms, *counts])
        tp, fp, fn, tn = (int(n) for n in counts)
        total = Confusion(tp=tp, fp=fp, fn=fn, tn=tn)
        scores = {f"{split}_{name}": value for name, value in total.scores().items() if name != "f1"}
        return {f"{split}_loss": loss_sum / max(terms_sum, 1), **scores}


def _count(predicted: Tensor, truth: Tensor) -> Tensor:
    tp, fp, fn = ((a & b).sum() for a, b in ((predicted, truth), (predicted, ~truth), (~predicted, truth)))
    return torch.stack([tp, fp, fn, truth.numel() - tp - fp - fn])


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def _freeze_batch_norm(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
