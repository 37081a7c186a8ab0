"""The folder of a training: file names, settings, and whether a command may start or resume there."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from spermseg.errors import ConfigError
from spermseg.model.saved import SavedModel
from spermseg.recipes import Recipe
from spermseg.storage.filesystem import Location
from spermseg.training.data.source import TrainingData

MODEL = "model.safetensors"
SETTINGS = "settings.json"
HISTORY = "history.csv"


def snapshot_name(epoch: int) -> str:
    """Return the name of the model file of an epoch."""
    return f"model-epoch-{epoch}.safetensors"


def settings_of(chosen: Recipe, begun: SavedModel | None, data: TrainingData) -> dict[str, Any]:
    """Return all settings of a training. `start` is `scratch`, or the digest of the initial model."""
    return asdict(chosen) | {"start": "scratch" if begun is None else begun.sha256, "data": data.settings}


def check_run(out: Location, *, resume: bool) -> None:
    """Raise ConfigError if a new training finds an old one there, or if there is none to resume."""
    present = next(iter(out.child("checkpoints").list()), None) is not None or out.child(MODEL).exists()
    if present and not resume:
        raise ConfigError(f"{out.uri} already holds a training; give --resume to continue it, or another --out")
    if resume and not present:
        raise ConfigError(f"{out.uri} holds no training to resume; leave out --resume")


def keep_settings(out: Location, given: Mapping[str, Any], *, resume: bool) -> dict[str, Any]:
    """Store the settings of a training, and return them with all its snapshots.

    A resumed training keeps the snapshots of earlier commands, up to its number of epochs.

    Raises:
        ConfigError: the resumed training had other settings. Only the number of epochs and the snapshots of unfinished
            epochs may differ.
    """
    place = out.child(SETTINGS)
    settings: dict[str, Any] = json.loads(json.dumps(given))
    if resume and place.exists():
        before = _read(place)
        _check_goes_on(out, before, settings)
        asked = {epoch for epoch in before["snapshots"] if epoch <= settings["train"]["epochs"]}
        settings["snapshots"] = sorted(asked | {*settings["snapshots"]})
    place.write_bytes((json.dumps(settings, indent=2, sort_keys=True) + "\n").encode())
    return settings


def _check_goes_on(out: Location, before: dict[str, Any], now: Mapping[str, Any]) -> None:
    done = epochs_done(out)
    if now["train"]["epochs"] < done:
        raise ConfigError(
            f"got --epochs {now['train']['epochs']}; {out.uri} has finished {done}: give at least as many"
        )
    late = [epoch for epoch in now["snapshots"] if epoch <= done and epoch not in before["snapshots"]]
    if late:
        raise ConfigError(
            f"got --snapshots {late[0]}; {out.uri} has finished that epoch without a snapshot: leave it out, or "
            "give another --out"
        )
    same = {**before, "snapshots": now["snapshots"], "train": {**before["train"], "epochs": now["train"]["epochs"]}}
    if same != now:
        names = ", ".join(sorted(name for name in now if now[name] != same.get(name)))
        raise ConfigError(f"{out.uri} was begun with other settings ({names}); resume with the same, or another --out")


def epochs_done(out: Location) -> int:
    """Return the number of finished epochs in the history of a training."""
    place = out.child(HISTORY)
    return max(0, len(place.read_bytes().splitlines()) - 1) if place.exists() else 0


def _read(place: Location) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads(place.read_bytes())
        settings["train"]["epochs"], {*settings["snapshots"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{place.uri} is damaged, or from an earlier version; train again, with another --out"
        ) from error
    return settings
