"""Trainings as separate commands. Each is done once, can be resumed after a kill, and gives a row of figures."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from spermseg.model.folded import CellProbability
from spermseg.model.saved import SavedModel, load_model
from spermseg.storage.filesystem import Location

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))
from limits import work_of

COLUMNS = ("dice", "cldice", "head", "tail", "threshold")


def scored(dataset: str, place: Path, run: Path, train_words: tuple[str, ...], words: tuple[str, ...] = ()) -> Any:
    """Return the figures of a training on the validation split at native resolution.

    Figures that `place` has already are returned from there.

    Args:
        dataset: with splits train and val.
        place: the folder of the figures.
        run: the folder of the training; several places may share one training.
        train_words: options of `spermseg train`.
        words: options of `spermseg evaluate`.
    """
    row = place / "row.json"
    if not row.exists():
        begun = time.time()
        _train(dataset, run, train_words)
        seconds = time.time() - begun
        model, scores = run / "model.safetensors", place / "evaluation"
        what = ("--model", str(model), "--dataset", dataset, "--split", "val", "--out", str(scores))
        _spermseg("evaluate", *what, *words)
        found = json.loads((scores / "metrics.json").read_bytes())
        row.write_text(json.dumps(_figures(load_model(Location(str(model))), found) | {"minutes": seconds / 60}))
    return json.loads(row.read_bytes())


def option_words(**options: float) -> tuple[str, ...]:
    """Return options as words of a command line.

    >>> option_words(batch_size=4)
    ('--batch-size', '4')
    """
    return tuple(word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value)))


def cells(figures: dict[str, Any]) -> list[str]:
    """Return the cells of a table row for `COLUMNS`."""
    return [f"{figures[name]:.3f}" if name in figures else "" for name in COLUMNS]


def _train(dataset: str, run: Path, words: tuple[str, ...]) -> None:
    """Train the recipe `clinic` with more options into a folder, unless the folder has the model already."""
    if (run / "model.safetensors").exists():
        return
    going_on = ("--resume",) if (run / "checkpoints").exists() else ()
    _spermseg("train", "--recipe", "clinic", "--dataset", dataset, "--out", str(run), *words, *going_on)


def _spermseg(*words: str) -> None:
    """Run a command; its output goes to the terminal."""
    subprocess.run([Path(sys.executable).with_name("spermseg"), *words], check=True)


def _figures(saved: SavedModel, found: dict[str, Any]) -> dict[str, float]:
    cell = found["per_image"]
    parts = {
        part: found["parts"][part]["per_image"]["dice"]["mean"] for part in ("head", "tail") if part in found["parts"]
    }
    scale = getattr(saved.description.view, "scale", 1.0)
    mac = work_of(CellProbability(saved.network), torch.float32).flop / 2
    return {
        "dice": cell["dice"]["mean"],
        "cldice": cell["cldice"]["mean"],
        **parts,
        "threshold": found["threshold"],
        "gmac_per_native_mpx": mac * scale**2 / 1e3,
    }
