"""The training loop: plain PyTorch, on one worker or many, on a CPU or a GPU."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spermseg.evaluation.pixel_metrics import Confusion, confusion
from spermseg.micrograph.tiling import View
from spermseg.model.predict import network_input, predict_working, window_layout
from spermseg.model.unet import UNet
from spermseg.model.unet_config import UNetConfig
from spermseg.training.config import TrainConfig
from spermseg.training.data.coverage import target_of
from spermseg.training.data.sampling import Batches, WorkingExample
from spermseg.training.learner import Learner, Weights
from spermseg.training.losses import drop_ignored, segmentation_loss


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """The workers that train together. Where there are several, torch.distributed is set up."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all workers."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.size > 1:
            torch.distributed.all_reduce(total)
        return [float(value) for value in total.cpu()]


@dataclass(frozen=True, kw_only=True, eq=False)
class FitState:
    """The state that a training resumes from."""

    epoch: int = 0
    """Finished epochs."""
    weights: Weights = field(default_factory=dict)
    """The weights that are trained."""
    ema: Weights = field(default_factory=dict)
    """The EMA of the weights; empty where there is none."""
    optimizers: dict[str, Any] = field(default_factory=dict)
    best_epoch: int = 0
    """The epoch with the highest Dice on the validation split."""
    best_weights: Weights = field(default_factory=dict)
    """The weights of the best epoch, or their EMA where there is one."""
    snapshots: Mapping[int, Weights] = field(default_factory=dict)
    """Epoch -> weights, of the epochs that are kept in addition to the best."""
    history: tuple[dict[str, float], ...] = ()
    """One record an epoch: epoch, train_loss, val_loss, train_iou, val_iou, train_dice, val_dice ..."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The progress of a training, for a progress bar."""

    epoch: int
    """The current epoch, from 1."""
    step: int
    """Finished steps of this epoch."""
    steps: int
    """Steps of an epoch."""
    loss: float
    """Mean loss over the steps of this epoch so far."""
    history: tuple[dict[str, float], ...]
    """Records of the finished epochs, as in `FitState`."""


@dataclass(kw_only=True, eq=False)
class Fit:
    """One training: network, examples and settings. `run` trains the network."""

    network_config: UNetConfig
    view: View
    config: TrainConfig
    train: Batches
    val: Sequence[WorkingExample]
    """All validation examples; this worker scores its share of them."""
    threshold: float = 0.5
    snapshots: Sequence[int] = ()
    """Epochs whose weights are kept in addition to the best."""
    first_weights: Weights | None = None
    """Weights to start from; None starts from scratch."""
    process_group: ProcessGroup = field(default_factory=ProcessGroup)

    def __post_init__(self) -> None:
        torch.manual_seed(self.config.seed)
        network = UNet(self.network_config)
        if self.first_weights is not None:
            network.load_state_dict(self.first_weights)
        self.learner = Learner(network, self.config, self.train.steps, self.process_group.device)

    def run(
        self,
        state: FitState | None = None,
        on_epoch: Callable[[FitState], object] | None = None,
        on_step: Callable[[StepReport], None] | None = None,
    ) -> FitState:
        """Train until the last epoch.

        Args:
            state: the state to resume from; None starts at the first epoch.
            on_epoch: called on every worker after every epoch.
            on_step: called on every worker after every step.
        """
        state = state or FitState()
        if state.epoch:
            self.learner.resume(weights=state.weights, ema=state.ema, optimizers=state.optimizers, epochs=state.epoch)
        if self.process_group.size > 1:
            self.learner.distribute()
        while state.epoch < self.config.epochs:
            trained = self._train_epoch(state, on_step)
            record = {"epoch": state.epoch + 1, **trained, **self._validate()}
            state = self._next_state(state, record)
            if on_epoch:
                on_epoch(state)
        return state

    def _next_state(self, state: FitState, record: dict[str, float]) -> FitState:
        best = max((entry["val_dice"] for entry in state.history), default=-1.0)
        learned = self.learner.state()
        kept = learned["ema"] or learned["weights"]
        new = replace(state, epoch=int(record["epoch"]), history=(*state.history, record), **learned)
        if record["val_dice"] > best:
            new = replace(new, best_epoch=new.epoch, best_weights=kept)
        if new.epoch in self.snapshots:
            new = replace(new, snapshots={**state.snapshots, new.epoch: kept})
        return new

    def _train_epoch(self, state: FitState, on_step: Callable[[StepReport], None] | None) -> dict[str, float]:
        self.learner.start_epoch()
        loss_sum, counts = 0.0, torch.zeros(4, dtype=torch.int64, device=self.process_group.device)
        for step, (tiles, coverages) in enumerate(self.train.batches(state.epoch), start=1):
            x = network_input(torch.from_numpy(tiles).to(self.process_group.device, non_blocking=True))
            target = self._target(torch.from_numpy(coverages).to(self.process_group.device, non_blocking=True))
            loss, logits = self.learner.step(x, target)
            loss_sum += float(loss)
            found, truth = drop_ignored(logits, target)
            counts += _count(found > _logit(self.threshold), truth >= 0.5)
            if on_step:
                on_step(
                    StepReport(
                        epoch=state.epoch + 1,
                        step=step,
                        steps=self.train.steps,
                        loss=loss_sum / step,
                        history=state.history,
                    )
                )
        return self._record("train", loss_sum, self.train.steps, [float(n) for n in counts.cpu()])

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Score this worker's share of the validation split, at the working resolution, and sum over the workers."""
        self.learner.sync_buffers()
        self.learner.evaluated.eval()
        share = self.val[self.process_group.rank :: self.process_group.size]
        loss_sum, counts = 0.0, Confusion()
        batch_px = self.config.batch_size * self.view.tile**2
        layout = window_layout(self.view, self.network_config, batch_px)
        logits = predict_working(self._forward, layout, (e.pixels for e in share), batch_px)
        for example, maps in zip(share, logits, strict=True):
            target = self._target(torch.from_numpy(example.coverage)[None])
            loss_sum += float(segmentation_loss(torch.from_numpy(maps)[None], target, self.config.loss))
            found, truth = drop_ignored(torch.from_numpy(maps)[None], target)
            counts += confusion((found > _logit(self.threshold)).numpy(), (truth >= 0.5).numpy())
        return self._record("val", loss_sum, len(share), [counts.tp, counts.fp, counts.fn, counts.tn])

    def _forward(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = network_input(torch.from_numpy(tiles).to(self.process_group.device))
        with self.learner.precision():
            logits: NDArray[np.float32] = self.learner.evaluated(x).float().cpu().numpy()
        return logits

    def _target(self, coverage: Tensor) -> Tensor:
        """Return the target (N, classes, Y, X) of a coverage (N, Y, X, classes)."""
        return target_of(coverage, soft=self.config.soft_labels).permute(0, 3, 1, 2)

    def _record(self, split: str, loss_sum: float, terms: int, counts: Sequence[float]) -> dict[str, float]:
        """Return the record of a split. Losses and counts are summed over the workers before any ratio is taken."""
        loss_sum, terms_sum, *counts = self.process_group.sum([loss_sum, terms, *counts])
        tp, fp, fn, tn = (int(n) for n in counts)
        total = Confusion(tp=tp, fp=fp, fn=fn, tn=tn)
        scores = {f"{split}_{name}": value for name, value in total.scores().items() if name != "f1"}
        return {f"{split}_loss": loss_sum / max(terms_sum, 1), **scores}


def _count(predicted: Tensor, truth: Tensor) -> Tensor:
    tp, fp, fn = ((a & b).sum() for a, b in ((predicted, truth), (predicted, ~truth), (~predicted, truth)))
    return torch.stack([tp, fp, fn, truth.numel() - tp - fp - fn])


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))
