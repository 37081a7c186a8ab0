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
    """Passes over the training split; each pass has `expansion` variants of each picture."""
    batch_size: int = 4
    """Pictures a step, over all workers."""
    optimizer: OptimizerName = "adam"
    """`muon` trains the kernels of convolutions with Muon, and the rest with Adam (`training.optimizers`)."""
    learning_rate: float = 3e-4
    """Learning rate; the highest one where a schedule changes it."""
    schedule: ScheduleName = "constant"
    """Learning rate schedule: `one-cycle` rises for a third of the steps, then falls to almost 0 (Smith and Topin,
    2019)."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW): each step subtracts this share of the weights, times the learning rate."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average (EMA) of the weights, for example 0.998; it is lower in the first steps.
    The EMA is scored and saved. With 0, there is no EMA, and the weights themselves are scored and saved."""
    precision: PrecisionName = "float32"
    """Precision of the convolutions on a CPU, with weights in float32; `auto` is bfloat16 where the CPU has
    instructions for it. A GPU always computes in bfloat16."""
    loss: LossName = "bce"
    """`bce` is binary cross-entropy; `training.losses` has all of them."""
    soft_labels: bool = False
    """Whether the targets are soft: the share of each pixel that is cell, instead of 0 or 1."""
    augment: AugmentName = "paper"
    """`paper` is its five transforms, `symmetries` those of a square, `clinic` a stronger mixture, `none` nothing."""
    expansion: int = 6
    """Variants of each picture in an epoch, the picture itself included."""
    places: int = 1
    """Random squares of a picture that are tried for a tile. The one with the most cell pixels is taken, so tiles with
    many cells are seen more often."""
    superpose: float = 0.0
    """Share of the tiles of annotated pictures that get a second tile laid on them (`training.data.superpose`)."""
    ignore_cut: bool = False
    """Whether the loss ignores cells whose heads lie outside the tile, where heads are a class
    (`training.data.ignored_regions`)."""
    seed: int = 0
    """Seed of the first weights, the order and the variants."""
    freeze_batch_norm: bool = False
    """Whether the statistics of batch normalisation stay fixed, for fine-tuning with small batches."""

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
                f"got EMA decay {self.ema_decay:g} and weight decay {self.weight_decay:g}; an EMA decay of 0 or more "
                "and below 1, and a weight decay of 0 or more, are needed"
            )
        if not 0 <= self.superpose <= 1:
            raise ConfigError(f"got {self.superpose:g} as the share of superposed tiles; 0 to 1 is needed")
        check_expansion(self.augment, self.expansion)
