"""How many annotated pictures does a laboratory need? From scratch, and from the bundled model.

    python benchmarks/learning/few.py --dataset dataset --out build/few

Trainings of one length: as many tiles, whether they are cut from 5 pictures or from 200. Each is a command of its own:
what is done stays done, and the same command goes on after a kill.

Prints a table and, as its last line, one JSON object of the figures.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm
from trainings import COLUMNS, cells, option_words, scored

Start = Literal["scratch", "pretrained"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train on few pictures and on many, from both starts, and score on the validation split."""

    dataset: str
    """A dataset with splits train and val."""
    out: Path
    """Where trainings and scores lie."""
    pictures: tuple[int, ...] = (20, 5, 200, 50, 10)
    """Of the training split; fewer ones are among more."""
    starts: tuple[Start, ...] = ("scratch", "pretrained")
    """Of the weights."""
    tiles: int = 4000
    """That each training sees, in whole variants of each picture."""
    epochs: int = 4
    """Into which it is cut; the best one is kept."""
    tile: int = 256
    """Side of a tile, px at the working resolution."""
    batch_size: int = 4
    """Tiles a step."""

    def words(self, pictures: int, start: Start) -> tuple[str, ...]:
        """Return the options of one training."""
        expansion = max(1, round(self.tiles / self.epochs / pictures))
        length = option_words(
            pictures=pictures, epochs=self.epochs, expansion=expansion, tile=self.tile, batch_size=self.batch_size
        )
        return ("--init", start, *length)


def main(options: Options) -> None:
    """Train, score and print."""
    found = {}
    wanted = [(pictures, start) for pictures in options.pictures for start in options.starts]
    for pictures, start in tqdm(wanted, desc="trainings", unit="training"):
        place = options.out / f"{start}-{pictures}-{options.tiles}"
        found[pictures, start] = scored(options.dataset, place, place, options.words(pictures, start))
    print(f"| pictures | start | {' | '.join(COLUMNS)} |")
    print("| --- " * (len(COLUMNS) + 2) + "|")
    for (pictures, start), figures in sorted(found.items()):
        print(f"| {pictures} | {start} | {' | '.join(cells(figures))} |")
    print(json.dumps({f"{pictures} {start}": figures["dice"] for (pictures, start), figures in found.items()}))


if __name__ == "__main__":
    main(tyro.cli(Options))
