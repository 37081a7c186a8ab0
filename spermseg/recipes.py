"""The recipes: complete configurations by name, `paper` and `clinic`."""

from dataclasses import dataclass, field, replace
from typing import Literal

from spermseg.cells.instances import CellConfig
from spermseg.micrograph.layout import aligned
from spermseg.micrograph.tiling import Tiles, WholeFrame
from spermseg.model.unet_config import UNetConfig
from spermseg.training.config import TrainConfig

RecipeName = Literal["paper", "clinic"]
Start = Literal["scratch", "pretrained"]
PARTS = ("cell", "head", "acrosome", "midpiece", "tail")
"""Classes of `clinic`, as far as they are annotated."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The complete configuration of a training, except the data."""

    name: RecipeName
    network: UNetConfig = field(default_factory=UNetConfig)
    view: WholeFrame | Tiles
    train: TrainConfig
    cells: CellConfig
    start: Start = "scratch"
    """Initial weights: random (`scratch`), or those of the bundled model (`pretrained`)."""
    choose_threshold: bool = False
    """Whether the threshold is chosen on the validation split, instead of the one in `cells`."""

    def from_scratch(self) -> "Recipe":
        """Return the recipe for random initial weights.

        A recipe for pretrained weights has a small learning rate. From scratch, the maximum is larger, and a one-cycle
        schedule lowers the rate at the end.
        """
        if self.start == "scratch":
            return self
        return replace(self, start="scratch", train=replace(self.train, schedule="one-cycle", learning_rate=3e-3))


def paper() -> Recipe:
    """Return the configuration of Melendez et al., CBMS 2021: whole pictures at 256 x 256, five variants of each."""
    return Recipe(name="paper", view=WholeFrame(size=256), train=TrainConfig(), cells=CellConfig())


def clinic() -> Recipe:
    """Return the configuration for clinics: tiles, stronger augmentation, and pretrained weights.

    Tiles are at a quarter of the native resolution and keep the aspect ratio. The network reads blocks of 2 x 2 pixels
    as channels. So it is as fast as the paper's network, with twice the receptive field.
    """
    network = UNetConfig(filters=(32, 48, 64, 96), bridge=96, subpixel=2, classes=PARTS)
    return Recipe(
        name="clinic",
        network=network,
        view=Tiles(scale=0.25, tile=256, halo=aligned(network.reach, network.multiple)),
        train=TrainConfig(
            batch_size=4,
            optimizer="muon",
            epochs=45,
            learning_rate=1e-3,
            weight_decay=0.01,
            ema_decay=0.999,
            precision="auto",
            loss="bce+dice",
            soft_labels=True,
            augment="clinic",
            expansion=4,
            superpose=0.3,
        ),
        cells=CellConfig(require_head=True),
        start="pretrained",
        choose_threshold=True,
    )


def recipe(name: RecipeName) -> Recipe:
    """Return the recipe of a name."""
    return {"paper": paper, "clinic": clinic}[name]()
