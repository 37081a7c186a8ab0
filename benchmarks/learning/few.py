"""How many annotated pictures does a laboratory need? From scratch, and from the bundled model.

    python benchmarks/learning/few.py --dataset dataset --out build/few

All trainings have the same number of tiles, from 5 pictures or from 200. Each training is a separate command. After a
kill, the same benchmark command keeps finished trainings and resumes the others.

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
    """Folder of trainings and scores."""
    pictures: tuple[int, ...] = (20, 5, 200, 50, 10)
    """Numbers of training pictures; a larger set contains the smaller ones."""
    starts: tuple[Start, ...] = ("scratch", "pretrained")
    """First weights."""
    tiles: int = 4000
    """Tiles of each training, rounded to whole variants of each picture."""
    epochs: int = 4
    """Epochs of each training; the best one is scored."""
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
