"""Complete, named configurations: `paper` and `clinic`."""

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
"""What `clinic` learns, as far as it is annotated."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that makes a model, but the pictures."""

    name: RecipeName
    network: UNetConfig = field(default_factory=UNetConfig)
    view: WholeFrame | Tiles
    train: TrainConfig
    cells: CellConfig
    start: Start = "scratch"
    """What the first weights are: drawn at random, or those of the bundled model."""
    choose_threshold: bool = False
    """Whether the threshold is chosen on the validation split, rather than that of `cells`."""

    def from_scratch(self) -> "Recipe":
        """Return the recipe for first weights that are drawn at random.

        Where it is made to go on from a network that has begun, one that has not takes larger steps, which end small.
        """
        if self.start == "scratch":
            return self
        return replace(self, start="scratch", train=replace(self.train, schedule="one-cycle", learning_rate=3e-3))


def paper() -> Recipe:
    """Return the configuration of Melendez et al., CBMS 2021: the whole picture at 256 x 256, five variants of each."""
    return Recipe(name="paper", view=WholeFrame(size=256), train=TrainConfig(), cells=CellConfig())


def clinic() -> Recipe:
    """Return tiles at a quarter of the native resolution, which keep the aspect, stronger augmentation, and a start.

    The network sees blocks of 2 x 2 pixels: as fast as the paper's, it looks twice as far.
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
    """Return a recipe by its name."""
    return {"paper": paper, "clinic": clinic}[name]()
