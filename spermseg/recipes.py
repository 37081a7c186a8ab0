"""Complete, named configurations: `paper` and `clinic`."""

from dataclasses import dataclass, field
from typing import Literal

from spermseg.cells.instances import CellConfig
from spermseg.micrograph.tiling import Tiles, WholeFrame
from spermseg.model.unet import UNetConfig
from spermseg.training.config import TrainConfig

RecipeName = Literal["paper", "clinic"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that makes a model, but the pictures."""

    name: RecipeName
    network: UNetConfig = field(default_factory=UNetConfig)
    view: WholeFrame | Tiles
    train: TrainConfig
    cells: CellConfig
    choose_threshold: bool = False
    """Whether the threshold is chosen on the validation split, rather than that of `cells`."""


def paper() -> Recipe:
    """Return the configuration of Melendez et al., CBMS 2021: the whole picture at 256 x 256, five variants of each."""
    return Recipe(name="paper", view=WholeFrame(size=256), train=TrainConfig(), cells=CellConfig())


def clinic() -> Recipe:
    """Return tiles at half the native resolution, which keep the aspect and the tails, and stronger augmentation."""
    return Recipe(
        name="clinic",
        view=Tiles(scale=0.5, tile=512, halo=112),
        train=TrainConfig(
            batch_size=8,
            learning_rate=3e-3,
            schedule="one-cycle",
            weight_decay=0.01,
            average=0.99,
            precision="auto",
            loss="bce+dice",
            augment="clinic",
            expansion=2,
        ),
        cells=CellConfig(headed=True),
        choose_threshold=True,
    )


def recipe(name: RecipeName) -> Recipe:
    """Return a recipe by its name."""
    return {"paper": paper, "clinic": clinic}[name]()
