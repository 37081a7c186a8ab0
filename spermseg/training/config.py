"""How a network learns."""

from dataclasses import dataclass
from typing import Literal

from spermseg.errors import ConfigError
from spermseg.training.data.augment import AugmentName, check_expansion
from spermseg.training.losses import LossName
from spermseg.training.optimizers import OptimizerName

ScheduleName = Literal["constant", "one-cycle"]
PrecisionName = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the network learns. The defaults are the paper's."""

    epochs: int = 30
    """Times that the training split is seen, each with its variants."""
    batch_size: int = 4
    """Pictures a step, over all workers."""
    optimizer: OptimizerName = "adam"
    """`muon` moves the kernels of convolutions by Muon, and the rest by Adam (`training.optimizers`)."""
    learning_rate: float = 3e-4
    """Of the optimisers; the highest one of a schedule."""
    schedule: ScheduleName = "constant"
    """Of the learning rate: `one-cycle` rises for a third of the steps and falls to nothing (Smith and Topin, 2019)."""
    weight_decay: float = 0.0
    """Share of the weights taken off, times the learning rate, every step, apart from the gradient (AdamW)."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average (EMA) of the weights, as 0.998, and less at first. The EMA is scored and
    kept. 0 keeps the weights themselves."""
    precision: PrecisionName = "float32"
    """Of the convolutions on a CPU, with weights in float32; `auto` is bfloat16 where the machine is fast at it. A GPU
    computes in bfloat16 either way."""
    loss: LossName = "bce"
    """`bce` is binary cross-entropy; see `training.losses`."""
    soft_labels: bool = False
    """Learn how much of each pixel is cell, instead of whether at least half of it is."""
    augment: AugmentName = "paper"
    """`paper` is its five transforms, `symmetries` those of a square, `clinic` a stronger mixture, `none` nothing."""
    expansion: int = 6
    """Pictures that an epoch makes of each: itself and its variants."""
    places: int = 1
    """Squares of a picture that are tried for a tile; the one with the most cells is taken: hard tiles, more often."""
    superpose: float = 0.0
    """Share of the tiles of annotated pictures that another one is laid on (`training.data.superpose`)."""
    ignore_cut: bool = False
    """Learn nothing from cells whose heads a tile cuts off, where heads are learned (`training.data.incomplete`)."""
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
        if self.places < 1:
            raise ConfigError(f"got {self.places} places for a tile; 1 or more is needed")
        if not 0 <= self.ema_decay < 1 or not 0 <= self.weight_decay < float("inf"):
            raise ConfigError(
                f"got EMA decay {self.ema_decay:g} and weight decay {self.weight_decay:g}; 0 up to, but not, 1, and "
                "0 or more, are needed"
            )
        if not 0 <= self.superpose <= 1:
            raise ConfigError(f"got {self.superpose:g} of the tiles to lay another one on; 0 to 1 is needed")
        check_expansion(self.augment, self.expansion)
